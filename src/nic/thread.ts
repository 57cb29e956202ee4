/**
 * A worker thread with one synchronous loop, and the main thread's hold on it.
 *
 * ```
 *   main thread                                    worker
 *   call(command) ── message, eventfd, flag ──►    between two turns: handle(command)
 *        ◄────────────── message ──────────────    reply
 * ```
 * The loop never yields to the worker's event loop: it blocks in ppoll, or never. The flag is a word in the window that a spinning loop looks at
 * once a turn; the eventfd wakes a sleeping one. A loop is asked to stop and leaves by itself; it is never terminated from outside.
 */
import {
  MessageChannel,
  type MessagePort,
  receiveMessageOnPort,
  Worker,
  workerData,
} from 'node:worker_threads';
import { drainEventFd, EventFd } from '../linux/eventfd.js';
import { POLLIN, Poller } from '../linux/poll.js';
import type { Arena } from '../memory/arena.js';
import { Window } from '../memory/window.js';

/** What a worker does. `turn` does a bounded amount of work and returns how many frames it moved. */
export interface Loop<Command, Reply> {
  /** Descriptors that `prepareSleep` may watch. */
  readonly pollEntries: number;
  /** Sleep between turns even if there is work, microseconds; 0 = never. */
  readonly pauseMicroseconds: number;
  /** Never sleep. */
  readonly spin: boolean;
  turn(): number;
  /** Busy-waits for about so many nanoseconds. */
  relax(nanoseconds: number): void;
  /** Before sleeping: arm what wakes us, set the poller's entries from `first` on. False: something came meanwhile, don't sleep. */
  prepareSleep(poller: Poller, first: number): boolean;
  afterSleep(poller: Poller, first: number): void;
  handle(command: Command): Reply;
}

/** What a worker starts with, from `LoopThread.start`. */
export interface LoopStart<Data> {
  readonly window: Window;
  readonly data: Data;
  /** Tells the main thread something that it did not ask for. Not for every packet. */
  readonly emit: (event: unknown) => void;
}

/** A process that exits waits for system calls of its workers: none may be without limit. */
const LONGEST_SLEEP_MS = 1000;

/**
 * A spinning loop that looks too often takes the cache line of the ring's index away from the other side, for a frame or two each time. So it
 * waits a moment when it finds little, longer the less it finds.
 */
const GOOD_BATCH = 64;
const LONGEST_BACK_OFF_NS = 8000;
const IDLE_BACK_OFF_NS = 500; // nothing at all: a packet that comes should not wait

interface ThreadData<Data> {
  memory: WebAssembly.Memory;
  port: MessagePort;
  flag: number;
  wake: number;
  data: Data;
}

type Request<Command> = { id: number; command: Command } | { stop: true };
type Response<Reply> =
  | { ready: true }
  | { id: number; reply: Reply }
  | { id: number; error: string }
  | { event: unknown }
  | { failed: string; stack: string };

/** A worker's loop failed: `code` is THREAD_FAILED, the message is the worker's. */
export class ThreadError extends Error {
  override readonly name = 'ThreadError';
  readonly code = 'THREAD_FAILED';
}

export class LoopThread<Command, Reply> {
  readonly #worker: Worker;
  readonly #port: MessagePort;
  readonly #wake: EventFd;
  readonly #flag: number;
  readonly #window: Window;
  readonly #arena: Arena;
  readonly #waiting = new Map<number, { resolve: (reply: Reply) => void; reject: (error: Error) => void }>();
  readonly #exited: Promise<void>;
  #nextId = 1;
  #stopped = false;
  /** Called once when the loop throws, or ends in any other way without being asked. */
  onFailure: (error: ThreadError) => void = () => {};
  /** Called with what the loop emits. */
  onEvent: (event: unknown) => void = () => {};

  private constructor(entry: URL, window: Window, arena: Arena, data: unknown, name: string) {
    this.#window = window;
    this.#arena = arena;
    this.#flag = arena.allocate(64);
    this.#wake = EventFd.create(`${name}: wake-up`);
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    const threadData: ThreadData<unknown> = {
      memory: window.memory,
      port: port2,
      flag: this.#flag,
      wake: this.#wake.fd,
      data,
    };
    this.#worker = new Worker(entry, { workerData: threadData, transferList: [port2], name });
    this.#exited = new Promise(resolve => this.#worker.once('exit', () => resolve()));
    this.#worker.once('error', error => this.#end(new ThreadError(error.message)));
    // Closed comes behind the last message, which may say more.
    const closed = new Promise(resolve => this.#port.once('close', resolve));
    void Promise.all([this.#exited, closed]).then(() => this.#end(new ThreadError('the worker has ended')));
  }

  /** Starts the worker whose module is `entry` (it calls `runLoop`); resolves when its loop runs. */
  static async start<Command, Reply>(
    entry: URL,
    { window, arena, data, name }: { window: Window; arena: Arena; data: unknown; name: string },
  ): Promise<LoopThread<Command, Reply>> {
    const thread = new LoopThread<Command, Reply>(entry, window, arena, data, name);
    try {
      await new Promise<void>((resolve, reject) => {
        thread.onFailure = reject;
        thread.#port.on('message', (message: Response<Reply>) => {
          if ('ready' in message) resolve();
          else thread.#receive(message);
        });
      });
      return thread;
    } catch (error) {
      await thread.stop();
      throw error;
    }
  }

  /** Has the loop handle a command between two turns. */
  call(command: Command): Promise<Reply> {
    if (this.#stopped) return Promise.reject(new ThreadError('the worker has stopped'));
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#post({ id, command });
    });
  }

  /** Ends the loop after its present turn, and the thread with it. */
  async stop(): Promise<void> {
    if (!this.#stopped) {
      this.#stopped = true;
      this.#post({ stop: true });
    }
    await this.#exited;
    this.#port.close();
    if (this.#wake.owner.closed) return;
    this.#wake.close();
    this.#arena.free(this.#flag);
  }

  #post(request: Request<Command>): void {
    this.#port.postMessage(request);
    // In this order: who wakes somebody may lose the processor to them, and what they are to see must be there by then.
    Atomics.store(this.#window.words, this.#flag >>> 2, 1);
    this.#wake.signal();
  }

  /** The loop is over: nobody waits for it any more. A failure, unless it was asked to end. */
  #end(error: ThreadError): void {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
    if (this.#stopped) return;
    this.#stopped = true;
    this.onFailure(error);
  }

  #receive(message: Exclude<Response<Reply>, { ready: true }>): void {
    if ('failed' in message) {
      const error = new ThreadError(message.failed);
      error.stack = message.stack; // where it happened, not where we heard of it
      this.#end(error);
      return;
    }
    if ('event' in message) {
      this.onEvent(message.event);
      return;
    }
    const caller = this.#waiting.get(message.id); // none: told of the end before this came
    this.#waiting.delete(message.id);
    if ('error' in message) caller?.reject(new ThreadError(message.error));
    else caller?.resolve(message.reply);
  }
}

/** The body of a worker: makes the loop from what it was started with, and runs it until it is asked to stop. */
export function runLoop<Data, Command, Reply>(make: (start: LoopStart<Data>) => Loop<Command, Reply>): void {
  const { memory, port, flag, wake, data } = workerData as ThreadData<Data>;
  const send = (message: Response<Reply>) => port.postMessage(message);
  try {
    const window = Window.attach(memory);
    const loop = make({ window, data, emit: event => send({ event }) });
    const poller = new Poller(loop.pollEntries + 1);
    poller.set(0, wake, POLLIN);
    const timer = loop.pauseMicroseconds > 0 ? new Poller(0) : null;
    const flagIndex = flag >>> 2;
    let backOff = 0;
    let woken = false;
    send({ ready: true });
    for (;;) {
      // The signal behind a flag that a turn has seen comes later: it wakes the loop once more, for nothing.
      if (woken || Atomics.load(window.words, flagIndex) !== 0) {
        woken = false;
        Atomics.store(window.words, flagIndex, 0);
        drainEventFd(wake);
        if (!handleMessages(loop, port, send)) break;
      }
      const moved = loop.turn();
      timer?.wait(loop.pauseMicroseconds / 1000);
      if (loop.spin) {
        const longest = moved === 0 ? IDLE_BACK_OFF_NS : LONGEST_BACK_OFF_NS;
        backOff = moved >= GOOD_BATCH ? backOff >> 1 : Math.min(longest, 2 * backOff + 16);
        if (backOff > 0) loop.relax(backOff);
        continue;
      }
      if (moved > 0) continue;
      if (loop.prepareSleep(poller, 1)) {
        poller.wait(LONGEST_SLEEP_MS);
        woken = poller.ready(0);
      }
      loop.afterSleep(poller, 1);
    }
  } catch (error) {
    const { message, stack = '' } = error instanceof Error ? error : new Error(String(error));
    send({ failed: message, stack });
  }
  port.close();
}

/** Handles all that has come. False: we are to stop. */
function handleMessages<Command, Reply>(
  loop: Loop<Command, Reply>,
  port: MessagePort,
  send: (message: Response<Reply>) => void,
): boolean {
  for (let received = receiveMessageOnPort(port); received; received = receiveMessageOnPort(port)) {
    const request = received.message as Request<Command>;
    if ('stop' in request) return false;
    try {
      send({ id: request.id, reply: loop.handle(request.command) });
    } catch (error) {
      send({ id: request.id, error: error instanceof Error ? error.message : String(error) });
    }
  }
  return true;
}
