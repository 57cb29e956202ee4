/**
 * A client's commands between the one who reads them off the connection and the one who carries them out. They are two, since carrying out a command may
 * need the client's answer to a command of ours.
 *
 * ```
 *   stream ──► reader ──┬── commands ──► inbox ──► carried out, one by one
 *                       └── replies ───► whoever of us has asked
 * ```
 * Bounded: the reader stops while it is full, and the client's messages stay in the socket.
 */
import type { Message } from './messages.js';

/** Full when it holds as many messages, file descriptors, or bytes. One message may reach beyond. */
const FULL = { messages: 64, fds: 32, bytes: 1 << 20 };

export class Inbox {
  #messages: Message[] = [];
  #fds = 0;
  #bytes = 0;
  #ended = false;
  #onMessage: (() => void) | null = null;
  #onRoom: (() => void) | null = null;

  /** Something may still come. */
  get open(): boolean {
    return !this.#ended;
  }

  get empty(): boolean {
    return this.#messages.length === 0;
  }

  /** Takes over a message and its fds; resolves when there is room for another one. */
  async put(message: Message): Promise<void> {
    if (this.#ended) {
      for (const fd of message.fds) fd.close();
      return;
    }
    this.#messages.push(message);
    this.#count(message, 1);
    this.#onMessage?.();
    if (this.#full) await new Promise<void>(resolve => (this.#onRoom = resolve));
  }

  /** The next one, which is the caller's from now on; waits for it. Null: there will be none. */
  async take(): Promise<Message | null> {
    if (this.empty && !this.#ended) await new Promise<void>(resolve => (this.#onMessage = resolve));
    this.#onMessage = null;
    return this.takeNow();
  }

  /** The next one if it is there and `wanted`. */
  takeNow(wanted: (message: Message) => boolean = () => true): Message | null {
    const message = this.#messages[0];
    if (message === undefined || !wanted(message)) return null;
    this.#messages.shift();
    this.#count(message, -1);
    if (!this.#full) this.#room();
    return message;
  }

  /** Nothing more will come. What is there can still be taken. */
  end(): void {
    this.#ended = true;
    this.#onMessage?.();
  }

  /** As `end`, and what is there is thrown away. */
  close(): void {
    for (const { fds } of this.#messages) for (const fd of fds) fd.close();
    this.#messages = [];
    this.#fds = this.#bytes = 0;
    this.#room();
    this.end();
  }

  get #full(): boolean {
    return this.#messages.length >= FULL.messages || this.#fds >= FULL.fds || this.#bytes >= FULL.bytes;
  }

  #count({ fds, payload }: Message, sign: 1 | -1): void {
    this.#fds += sign * fds.length;
    this.#bytes += sign * payload.length;
  }

  #room(): void {
    this.#onRoom?.();
    this.#onRoom = null;
  }
}
