/**
 * A control queue's packed ring (virtio 1.2, 2.8).
 *
 * ```
 *   descriptor   {address u64, length u32, id u16, flags u16} × num     available and used in the same place
 *   driver       {off_wrap u16, flags u16}                              which interrupts the guest wants
 *   device       the same                                               which kicks we want
 * ```
 */
import {
  type Chain,
  ChainPieces,
  type ControlRing,
  type ControlRingPlace,
  checkPlace,
  DESC,
  DESC_SIZE,
  orInterrupt,
  readDescriptor,
  ringError,
} from './control-ring.js';

const EVENT = { ENABLE: 0, DISABLE: 1, DESCRIPTOR: 2 } as const;

export class PackedControlRing implements ControlRing {
  readonly #place: ControlRingPlace;
  /** Where the next command begins, and the wrap counter there. */
  #at = 0;
  #wrap = true;

  /** Throws VirtqError, NicError NIC_RING. */
  constructor(place: ControlRingPlace) {
    checkPlace(place, true);
    this.#place = place;
  }

  take(): Chain | null {
    if (!this.#available()) return null;
    const { num, areas, memory } = this.#place;
    const chain = new ChainPieces(memory, false);
    for (let slots = 1; ; slots++) {
      const descriptor = readDescriptor(memory, areas.descriptor, (this.#at + slots - 1) % num);
      const { third: id, fourth: flags } = descriptor;
      chain.add(descriptor, flags);
      if ((flags & DESC.NEXT) === 0) return { id, slots, pieces: chain.pieces };
      if (slots === num) throw ringError(`a command of more than ${num} descriptors`);
    }
  }

  give({ id, slots }: Chain, written: number): boolean {
    const { num, areas, memory } = this.#place;
    const place = areas.descriptor + BigInt(DESC_SIZE * this.#at);
    const fields = new Uint8Array(6);
    const view = new DataView(fields.buffer);
    view.setUint32(0, written, true);
    view.setUint16(4, id, true);
    memory.write(place + 8n, fields);
    const flags = (this.#wrap ? DESC.AVAIL | DESC.USED : 0) | (written > 0 ? DESC.WRITE : 0);
    memory.store16(place + 14n, flags);
    const before = this.#at;
    this.#at += slots;
    if (this.#at >= num) {
      this.#at -= num;
      this.#wrap = !this.#wrap;
    }
    return orInterrupt(() => this.#wantsInterrupt(before));
  }

  arm(): boolean {
    const { areas, memory } = this.#place;
    memory.store16(areas.device + 2n, EVENT.ENABLE);
    return this.#available();
  }

  #available(): boolean {
    const { areas, memory } = this.#place;
    const flags = memory.load16(areas.descriptor + BigInt(DESC_SIZE * this.#at + 14));
    return ((flags & DESC.AVAIL) !== 0) === this.#wrap && ((flags & DESC.USED) !== 0) !== this.#wrap;
  }

  /** `before`: where we stood when the guest was looked at last. */
  #wantsInterrupt(before: number): boolean {
    const { num, areas, eventIdx, memory } = this.#place;
    const flags = memory.load16(areas.driver + 2n);
    if (flags !== EVENT.DESCRIPTOR || !eventIdx) return flags !== EVENT.DISABLE;
    const event = memory.load16(areas.driver);
    const offset = event & 0x7fff;
    const [from, to] = [before, this.#at];
    // Positions on a line that ends where we are; the event may be one round behind.
    const target = event >>> 15 === Number(this.#wrap) ? offset : offset - num;
    const old = to <= from ? from - num : from;
    return ((to - target - 1) & 0xffff) < ((to - old) & 0xffff);
  }
}
