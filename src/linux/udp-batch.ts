/**
 * Many datagrams per system call: sendmmsg and recvmmsg over memory laid out once.
 *
 *     mmsghdr 0 ─► iovec 0 ─► slot 0        one slot of `slotSize` bytes per datagram, in `payload`
 *     mmsghdr 1 ─► iovec 1 ─► slot 1        struct mmsghdr: msghdr (56 bytes) │ u32 length │ 4 bytes
 *     …
 *
 * For connected sockets: no addresses travel with the datagrams. Sending and receiving allocate nothing.
 */
import { addressOf, recvmmsg, sendmmsg } from './libc.js';

const MMSGHDR = 64;
const MMSGHDR_WORDS = MMSGHDR / 4;
const LENGTH_WORD = 56 / 4;
const MSG_DONTWAIT = 0x40;
const MSG_WAITFORONE = 0x10000;
const MSG_NOSIGNAL = 0x4000;

export class UdpBatch {
  readonly capacity: number;
  readonly slotSize: number;
  /** All slots, one after the other: datagram `i` begins at `i * slotSize`. */
  readonly payload: Uint8Array;
  readonly #headers: Uint32Array;
  readonly #iovecs: Uint32Array;
  readonly #address: number;

  constructor(capacity: number, slotSize: number) {
    this.capacity = capacity;
    this.slotSize = slotSize;
    this.payload = new Uint8Array(capacity * slotSize);
    this.#headers = new Uint32Array(capacity * MMSGHDR_WORDS);
    this.#iovecs = new Uint32Array(capacity * 4);
    this.#address = addressOf(this.#headers);
    const iovecs = addressOf(this.#iovecs);
    const payload = addressOf(this.payload);
    for (let i = 0; i < capacity; i++) {
      setAddress(this.#headers, i * MMSGHDR_WORDS + 4, iovecs + i * 16);
      this.#headers[i * MMSGHDR_WORDS + 6] = 1;
      setAddress(this.#iovecs, i * 4, payload + i * slotSize);
      this.#iovecs[i * 4 + 2] = slotSize;
    }
  }

  /** Bytes of datagram `i` after `receive`; longer datagrams are cut to the slot. */
  length(i: number): number {
    return this.#headers[i * MMSGHDR_WORDS + LENGTH_WORD]!;
  }

  /** Sends slots `from` to `from + count`, `length` bytes of each. Returns how many went, or `-errno`. Does not wait. */
  send(fd: number, from: number, count: number, length: number): number {
    if (!(from >= 0 && count >= 0 && from + count <= this.capacity && length <= this.slotSize)) {
      throw new RangeError(`${count} datagrams of ${length} bytes from slot ${from} are not in the batch`);
    }
    for (let i = from; i < from + count; i++) this.#iovecs[i * 4 + 2] = length;
    return sendmmsg(fd, this.#address + from * MMSGHDR, count, MSG_DONTWAIT | MSG_NOSIGNAL);
  }

  /**
   * Receives up to `capacity` datagrams. Returns how many came, or `-errno` (-EAGAIN: none). With `wait`, a blocking
   * socket waits for the first one, as long as its time limit allows.
   */
  receive(fd: number, wait = false): number {
    for (let i = 0; i < this.capacity; i++) this.#iovecs[i * 4 + 2] = this.slotSize;
    return recvmmsg(fd, this.#address, this.capacity, wait ? MSG_WAITFORONE : MSG_DONTWAIT);
  }
}

function setAddress(words: Uint32Array, at: number, address: number): void {
  words[at] = address >>> 0;
  words[at + 1] = Math.floor(address / 0x1_0000_0000);
}
