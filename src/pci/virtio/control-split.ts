/**
 * A control queue's split ring (virtio 1.2, 2.7).
 *
 * ```
 *   descriptor   {address u64, length u32, flags u16, next u16} × num
 *   driver       flags, idx, ring[num], used_event         u16 each
 *   device       flags, idx, {id u32, length u32} × num, avail_event
 * ```
 */
import {
  type Chain,
  ChainPieces,
  type ControlRing,
  type ControlRingPlace,
  checkPlace,
  DESC,
  orInterrupt,
  readDescriptor,
  ringError,
} from './control-ring.js';

const NO_INTERRUPT = 1;

export class SplitControlRing implements ControlRing {
  readonly #place: ControlRingPlace;
  /** Chains that were taken, and given back; both wrap. */
  #taken = 0;
  #given = 0;

  /** Throws VirtqError, NicError NIC_RING. */
  constructor(place: ControlRingPlace) {
    checkPlace(place, false);
    this.#place = place;
  }

  take(): Chain | null {
    const { num, areas, memory } = this.#place;
    const waiting = (memory.load16(areas.driver + 2n) - this.#taken) & 0xffff;
    if (waiting === 0) return null;
    if (waiting > num) throw ringError(`${waiting} commands are waiting in a ring of ${num}`);
    const id = memory.load16(areas.driver + BigInt(4 + 2 * (this.#taken % num)));
    if (id >= num) throw ringError(`descriptor ${id} of ${num}`);
    const chain = this.#walk(id);
    this.#taken = (this.#taken + 1) & 0xffff;
    return chain;
  }

  give({ id }: Chain, written: number): boolean {
    const { num, areas, eventIdx, memory } = this.#place;
    const entry = new Uint8Array(8);
    const view = new DataView(entry.buffer);
    view.setUint32(0, id, true);
    view.setUint32(4, written, true);
    memory.write(areas.device + BigInt(4 + 8 * (this.#given % num)), entry);
    const before = this.#given;
    const after = (before + 1) & 0xffff;
    memory.store16(areas.device + 2n, after);
    this.#given = after;
    return orInterrupt(() => {
      if (eventIdx) return memory.load16(areas.driver + BigInt(4 + 2 * num)) === before;
      return (memory.load16(areas.driver) & NO_INTERRUPT) === 0;
    });
  }

  arm(): boolean {
    const { num, areas, eventIdx, memory } = this.#place;
    if (eventIdx) memory.store16(areas.device + BigInt(4 + 8 * num), this.#taken);
    else memory.store16(areas.device, 0);
    return memory.load16(areas.driver + 2n) !== this.#taken;
  }

  #walk(id: number): Chain {
    const { num, areas, memory } = this.#place;
    const chain = new ChainPieces(memory, true);
    for (let at = id, slots = 1; ; slots++) {
      const descriptor = readDescriptor(memory, areas.descriptor, at);
      const { third: flags, fourth: next } = descriptor;
      chain.add(descriptor, flags);
      const more = (flags & DESC.NEXT) !== 0;
      if (more && (next >= num || slots === num)) chain.refuse();
      else if (more) {
        at = next;
        continue;
      }
      return { id, slots, pieces: chain.pieces };
    }
  }
}
