/**
 * What travels in the tests: content that is random, yet known to both ends from a seed and a number.
 *
 * ```
 *   pool     1 MiB of seeded noise, the same at both ends
 *   piece n  begins at a place in it that n alone decides; datagrams carry n in front
 *
 *   datagram │ n u32 │ noise ...                      frame │ destination │ source │ 88b5 │ noise ...
 * ```
 * So a receiver can tell of every byte whether it is the one that was sent.
 */

/** UDP payload: the smallest that fills an Ethernet frame, and the largest that fits one. */
export const MIN_DATAGRAM = 18;
export const MAX_DATAGRAM = 1472;

const POOL = 1 << 20;
const LONGEST = 1 << 16;

/** Ethernet type for local experiments: no kernel has a use for it. */
export const EXPERIMENTAL = 0x88b5;

export class Content {
  /** The noise, and its beginning once more so that no piece is cut. */
  readonly #pool: Buffer;
  readonly #seed: number;

  constructor(seed: number) {
    this.#seed = seed;
    const words = new Uint32Array((POOL + LONGEST) / 4);
    for (let i = 0; i < POOL / 4; i++) words[i] = mix(seed ^ Math.imul(i + 1, 0x9e3779b9));
    words.copyWithin(POOL / 4, 0, LONGEST / 4);
    this.#pool = Buffer.from(words.buffer);
  }

  /** A number from `min` to `max` that belongs to piece `n`. */
  size(n: number, min: number, max: number): number {
    return min + (mix(this.#seed + Math.imul(n, 0x85ebca6b)) % (max - min + 1));
  }

  /** The first `length` bytes of piece `n`, at most 64 KiB; not to be written to. */
  piece(n: number, length: number): Buffer {
    const at = mix(n ^ ~this.#seed) % POOL;
    return this.#pool.subarray(at, at + length);
  }

  /** Writes datagram `n` to `target`. Returns its length, 18 to 1472. */
  writeDatagram(n: number, target: Buffer): number {
    const length = this.size(n, MIN_DATAGRAM, MAX_DATAGRAM);
    target.writeUInt32LE(n, 0);
    this.piece(n, length - 4).copy(target, 4);
    return length;
  }

  /** The number of a datagram that is whole, -1 for any other. */
  readDatagram(bytes: Buffer): number {
    if (bytes.length < MIN_DATAGRAM) return -1;
    const n = bytes.readUInt32LE(0);
    const right =
      bytes.length === this.size(n, MIN_DATAGRAM, MAX_DATAGRAM) &&
      bytes.subarray(4).equals(this.piece(n, bytes.length - 4));
    return right ? n : -1;
  }

  /** An Ethernet frame of `length` bytes, 14 or more. */
  frame(n: number, length: number, destination: Uint8Array, source: Uint8Array): Buffer {
    const frame = Buffer.alloc(length);
    frame.set(destination, 0);
    frame.set(source, 6);
    frame.writeUInt16BE(EXPERIMENTAL, 12);
    this.piece(n, length - 14).copy(frame, 14);
    return frame;
  }
}

/** Scatters 32 bits: neighbours end up far apart. */
function mix(value: number): number {
  let x = value >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}
