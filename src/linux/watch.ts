/**
 * Readiness of a descriptor on this thread's event loop, for control sockets. (Datapath workers block in `poll.ts`.)
 *
 * Callbacks are level-triggered: they come again until the cause is gone. Each one is moved to the loop's next
 * phase with setImmediate, since the FFI library calls back outside of Node's callback scope, where resolved
 * promises and exceptions would surface late. One descriptor can be watched once per thread.
 */
import { type PollHandle, pollOnLoop } from './libc.js';

export interface Watch {
  /** Changes what is waited for; with neither, waits only for errors and hang-ups. */
  setEvents(events: { readable: boolean; writable: boolean }): void;
  /** Whether the watch alone keeps the process alive; it does at first. */
  ref(): void;
  unref(): void;
  /** Ends the watch; no callback comes after it. Close the watch before the descriptor. */
  close(): void;
}

// An unreferenced handle would be collected, and its events silently lost.
const alive = new Set<FdWatch>();

/** Calls back while `fd` can be read without blocking: data, end of file, a connection, or an error to collect. */
export function watchReadable(fd: number, callback: () => void): Watch {
  return new FdWatch(fd, { readable: true, writable: false }, callback);
}

/** Calls back while `fd` is ready for any of `events`, with what it is ready for. */
export function watch(
  fd: number,
  events: { readable: boolean; writable: boolean },
  callback: (readable: boolean, writable: boolean) => void,
): Watch {
  return new FdWatch(fd, events, callback);
}

class FdWatch implements Watch {
  readonly #handle: PollHandle;
  readonly #callback: (readable: boolean, writable: boolean) => void;
  #events: { readable: boolean; writable: boolean };
  #closed = false;

  constructor(
    fd: number,
    events: { readable: boolean; writable: boolean },
    callback: (r: boolean, w: boolean) => void,
  ) {
    this.#callback = callback;
    this.#events = events;
    this.#handle = pollOnLoop(fd, events, this.#onEvent);
    alive.add(this);
  }

  setEvents(events: { readable: boolean; writable: boolean }): void {
    if (this.#closed) return;
    this.#events = events;
    this.#handle.start(events, this.#onEvent);
  }

  ref(): void {
    if (!this.#closed) this.#handle.ref();
  }

  unref(): void {
    if (!this.#closed) this.#handle.unref();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#handle.close();
    alive.delete(this);
  }

  #onEvent = (status: number, { readable, writable }: { readable: boolean; writable: boolean }): void => {
    setImmediate(() => {
      if (this.#closed) return;
      // An error stops the handle. The owner learns of it from its next read or write, so both are said to be ready.
      const failed = status < 0;
      if (failed) this.#handle.start(this.#events, this.#onEvent);
      this.#callback(readable || failed, writable || failed);
    });
  };
}
