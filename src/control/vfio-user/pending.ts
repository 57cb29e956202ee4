/**
 * Commands that this side has sent and that are not answered yet, by id. Replies may come in any order.
 *
 * ```
 *   ask ──► waiting ── settle ──► answered
 *              │
 *              └─ timeout ──► late ── settle ──► forgotten: a reply that nobody waits for any more is no lie
 * ```
 */
import { VfioUserError } from './errors.js';
import { type CommandName, decodeReply, type Message, type Reply, setId } from './messages.js';

const IDS = 0x1_0000;

interface Waiting {
  readonly resolve: (message: Message) => void;
  readonly reject: (error: VfioUserError) => void;
  readonly timer: NodeJS.Timeout;
}

export class PendingCommands {
  readonly #timeoutMs: number;
  readonly #waiting = new Map<number, Waiting>();
  readonly #late = new Set<number>();
  #next = 0;

  constructor(timeoutMs: number) {
    this.#timeoutMs = timeoutMs;
  }

  /** How many are waited for. */
  get size(): number {
    return this.#waiting.size;
  }

  /**
   * Sends an encoded command under an id of its own; resolves with what answers it.
   * @throws VfioUserError `VFIO_TIMEOUT`; what `fail` is told; what `send` throws; what decodeReply throws
   */
  async ask<N extends CommandName>(
    name: N,
    command: Uint8Array,
    send: (command: Uint8Array) => void,
  ): Promise<Reply<N>> {
    const id = this.#freeId(name);
    setId(command, id);
    send(command);
    const message = await this.#reply(name, id);
    try {
      return decodeReply(name, message);
    } catch (error) {
      for (const fd of message.fds) fd.close();
      throw error;
    }
  }

  /** Gives a reply to whoever waits for it, and its fds with it; one that comes too late is dropped. False: nobody ever asked. */
  settle(message: Message): boolean {
    const waiting = this.#waiting.get(message.id);
    if (waiting) {
      clearTimeout(waiting.timer);
      this.#waiting.delete(message.id);
      waiting.resolve(message);
      return true;
    }
    for (const fd of message.fds) fd.close();
    return this.#late.delete(message.id);
  }

  /** No replies will come. */
  fail(error: VfioUserError): void {
    for (const { timer, reject } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(error);
    }
    this.#waiting.clear();
  }

  #reply(name: CommandName, id: number): Promise<Message> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        this.#late.add(id);
        reject(new VfioUserError('VFIO_TIMEOUT', `no reply to ${name} after ${this.#timeoutMs} ms`));
      }, this.#timeoutMs);
      this.#waiting.set(id, { resolve, reject, timer });
    });
  }

  #freeId(name: CommandName): number {
    for (let tries = 0; tries < IDS; tries++) {
      const id = this.#next;
      this.#next = (this.#next + 1) % IDS;
      if (!this.#waiting.has(id) && !this.#late.has(id)) return id;
    }
    throw new VfioUserError('VFIO_TIMEOUT', `${name}: the peer has answered none of ${IDS} commands`);
  }
}
