/**
 * The control queue: takes the guest's commands in the main thread, has each carried out, and says how it went.
 *
 * ```
 *   kick (eventfd) ──► take ──► {class u8, command u8, data …} ──► carry out ──► ack u8: 0 done, 1 not ──► interrupt
 * ```
 * One command at a time, and between two of them everybody else has a turn. Nothing of the guest's memory is held meanwhile.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { EventFd } from '../../linux/eventfd.js';
import { type Watch, watchReadable } from '../../linux/watch.js';
import { MemoryError } from '../../memory/window.js';
import { VIRTIO_FEATURE as F } from '../../ring/virtio/features.js';
import { PackedControlRing } from './control-packed.js';
import type { Chain, ControlRing, ControlRingPlace, Piece } from './control-ring.js';
import { SplitControlRing } from './control-split.js';
import type { GuestBytes } from './guest-bytes.js';

/** Bytes of a command at most: room for the addresses of some ten thousand groups. */
const MAX_COMMAND = 65536;
const ACK = { OK: 0, ERROR: 1 } as const;

export interface ControlQueueOptions {
  readonly memory: GuestBytes;
  /** Carries a command out: class, command, data. Resolves to whether that was possible; never rejects. */
  readonly carryOut: (command: Uint8Array) => Promise<boolean>;
  readonly interrupt: () => void;
  /** The ring is of no use any more, until it is started again. */
  readonly onBroken: (error: Error) => void;
}

export class ControlQueue {
  readonly #options: ControlQueueOptions;
  #ring: ControlRing | null = null;
  #watch: Watch | null = null;
  #work: Promise<void> | null = null;
  #look = false;
  /** A command that was carried out and is not given back yet: the ring's memory was away. */
  #pending: { readonly chain: Chain; readonly done: boolean } | null = null;

  constructor(options: ControlQueueOptions) {
    this.#options = options;
  }

  /** Takes commands from a ring that was never used. `features`: what was agreed on. Throws VirtqError, NicError NIC_RING for one that can't be. */
  start(place: Omit<ControlRingPlace, 'memory' | 'eventIdx'>, features: bigint, kick: EventFd): void {
    const whole = { ...place, memory: this.#options.memory, eventIdx: (features & F.EVENT_IDX) !== 0n };
    const packed = (features & F.RING_PACKED) !== 0n;
    this.#ring = packed ? new PackedControlRing(whole) : new SplitControlRing(whole);
    this.#watch = watchReadable(kick.fd, () => {
      kick.drain();
      this.look();
    });
    this.#watch.unref();
    this.look();
  }

  /** There may be something: the guest has kicked, or its memory is there now. */
  look(): void {
    if (!this.#ring) return;
    this.#look = true;
    this.#work ??= this.#run(this.#ring);
  }

  /** When it resolves, no command is carried out any more. */
  async stop(): Promise<void> {
    this.#forget();
    await this.#work;
  }

  #forget(): void {
    this.#watch?.close();
    this.#watch = null;
    this.#ring = null;
    this.#pending = null;
  }

  async #run(ring: ControlRing): Promise<void> {
    try {
      while (this.#look && this.#ring === ring) {
        this.#look = false;
        await this.#all(ring);
      }
    } catch (error) {
      this.#forget();
      this.#options.onBroken(error as Error);
    } finally {
      this.#work = null;
    }
  }

  /** All commands that there are, as far as the ring's memory is there: with the rest it waits for the next look. */
  async #all(ring: ControlRing): Promise<void> {
    try {
      while (this.#ring === ring && (await this.#one(ring))) await nextTurn();
    } catch (error) {
      if (!(error instanceof MemoryError)) throw error;
    }
  }

  /** One command, if there is one. Returns whether there may be another one. */
  async #one(ring: ControlRing): Promise<boolean> {
    if (!this.#pending) {
      const chain = ring.take();
      if (!chain) return ring.arm();
      const command = this.#commandOf(chain);
      const done = command !== null && (await this.#options.carryOut(command));
      if (this.#ring !== ring) return false;
      this.#pending = { chain, done };
    }
    const { chain, done } = this.#pending;
    const interrupt = ring.give(chain, this.#acknowledge(chain, done));
    this.#pending = null;
    if (interrupt) this.#options.interrupt();
    return true;
  }

  /** What the guest wants; null: that can't be understood. */
  #commandOf({ pieces }: Chain): Uint8Array | null {
    const readable = (pieces ?? []).filter(({ writable }) => !writable);
    const length = readable.reduce((sum, piece) => sum + piece.length, 0);
    if (length < 2 || length > MAX_COMMAND) return null;
    const command = new Uint8Array(length);
    let at = 0;
    try {
      for (const piece of readable) {
        command.set(this.#options.memory.read(piece.address, piece.length), at);
        at += piece.length;
      }
    } catch {
      return null; // a piece lies where no memory is
    }
    return command;
  }

  /** Writes the answer where the guest waits for it. Returns the bytes written. */
  #acknowledge({ pieces }: Chain, done: boolean): number {
    const place: Piece | undefined = pieces?.find(({ writable }) => writable);
    if (!place) return 0;
    try {
      this.#options.memory.write(place.address, Uint8Array.of(done ? ACK.OK : ACK.ERROR));
      return 1;
    } catch {
      return 0;
    }
  }
}
