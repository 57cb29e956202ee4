/**
 * Sealing: the payload of IP packets encrypted and authenticated between two guests, with a key that device and port never see (docs/sealing.md).
 *
 * ```
 *   plain    │ Ethernet, tags │ IP header │ payload                                            │
 *                                  │         └──────────────┐ encrypted, protocol behind it
 *   sealed   │ Ethernet, tags │ IP header │ prefix 7 │ counter 4 │ payload … │ protocol 1 │ tag 16 │
 *                              protocol 253
 *                              authenticated, but for what may change on the way
 * ```
 * AES-256-GCM. The nonce is prefix, counter (big-endian), and a byte that says which format this is. The prefix is random, one for each queue of a sealer
 * and for every 2^32 packets of it, so that no nonce comes twice whatever is restarted. Each queue counts for itself: within one, packets keep their order,
 * so a queue that stands still for long is not taken for somebody who repeats old packets. ARP passes as it is, nothing else does.
 *
 * Works in place, on memory that is the caller's alone. Errors are negative errno: what a program that asked for it gets to see.
 */
import { createCipheriv, createDecipheriv, type KeyObject, randomBytes } from 'node:crypto';
import { ARP, IPV4, IPV6, IpPacket } from './seal-packet.js';
import { MAX_SENDERS, PREFIX_BYTES, Senders } from './seal-senders.js';

/** The packet is longer than a frame may be when it is sealed. */
export const EMSGSIZE = -90;
/** No IP packet, nor ARP. */
export const EPROTONOSUPPORT = -93;
/** Not sealed with our key, changed since, had before, or our own. */
export const EBADMSG = -74;

/** Protocol number of a sealed packet: the first of the two for experiments (RFC 3692, RFC 4727). */
export const SEALED = 253;
const CIPHER = 'aes-256-gcm';
const FORMAT = 1;
const COUNTER_BYTES = 4;
const IN_FRONT = PREFIX_BYTES + COUNTER_BYTES;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
/** Bytes that sealing adds: prefix and counter, protocol, tag. */
export const GROWTH = IN_FRONT + 1 + TAG_BYTES;
const TAG = { authTagLength: TAG_BYTES };

export interface SealLimits {
  /** Packets sealed under one prefix: 2^32 at most. */
  readonly packetsPerPrefix: number;
  /** Prefixes remembered, our own among them. */
  readonly senders: number;
}

/** How far a queue has come. */
interface Outgoing {
  /** Of the packet that was sealed last. */
  readonly nonce: Buffer;
  /** Packets under this prefix. */
  counter: number;
}

export class Sealer {
  readonly #key: KeyObject;
  readonly #packet = new IpPacket();
  readonly #senders: Senders;
  readonly #packetsPerPrefix: number;
  /** By queue, for those that have sealed something. */
  readonly #outgoing: (Outgoing | undefined)[] = [];
  readonly #nonce = Buffer.alloc(NONCE_BYTES);

  /** @param key 32 bytes */
  constructor(
    key: KeyObject,
    { packetsPerPrefix = 2 ** 32, senders = MAX_SENDERS }: Partial<SealLimits> = {},
  ) {
    this.#key = key;
    this.#senders = new Senders(senders);
    this.#packetsPerPrefix = packetsPerPrefix;
    this.#nonce[NONCE_BYTES - 1] = FORMAT;
  }

  /**
   * Seals the frame of `length` bytes at `at`, which may grow to `room`, for the queue of that number. Returns its new length, or EMSGSIZE,
   * EPROTONOSUPPORT. Padding behind the packet is cut off.
   */
  seal(bytes: Uint8Array, at: number, length: number, room: number, queue = 0): number {
    const packet = this.#packet;
    const kind = packet.find(bytes, at, length);
    if (kind === ARP) return packet.end - at;
    if (kind !== IPV4 && kind !== IPV6) return EPROTONOSUPPORT;
    const { payload, end } = packet;
    if (end - at + GROWTH > room) return EMSGSIZE;

    const nonce = this.#next(queue);
    bytes[end] = packet.protocol(bytes);
    packet.rewrite(bytes, SEALED, end + GROWTH);
    const cipher = createCipheriv(CIPHER, this.#key, nonce, TAG);
    cipher.setAAD(packet.fixed(bytes));
    const encrypted = cipher.update(bytes.subarray(payload, end + 1));
    cipher.final();
    for (let i = 0; i < IN_FRONT; i++) bytes[payload + i] = nonce[i]!;
    bytes.set(encrypted, payload + IN_FRONT);
    bytes.set(cipher.getAuthTag(), end + GROWTH - TAG_BYTES);
    return packet.end - at;
  }

  /** Opens the frame of `length` bytes at `at`. Returns its new length, or EBADMSG, EPROTONOSUPPORT: then nothing of it may be used. */
  open(bytes: Uint8Array, at: number, length: number): number {
    const packet = this.#packet;
    const kind = packet.find(bytes, at, length);
    if (kind === ARP) return packet.end - at;
    if (kind !== IPV4 && kind !== IPV6) return EPROTONOSUPPORT;
    const { payload, end } = packet;
    if (packet.protocol(bytes) !== SEALED || end - payload < GROWTH) return EBADMSG;

    const nonce = this.#nonce;
    for (let i = 0; i < IN_FRONT; i++) nonce[i] = bytes[payload + i]!;
    const counter = nonce.readUInt32BE(PREFIX_BYTES);
    if (!this.#senders.mayBeNew(nonce, 0, counter)) return EBADMSG;
    const tag = end - TAG_BYTES;
    const decipher = createDecipheriv(CIPHER, this.#key, nonce, TAG);
    decipher.setAAD(packet.fixed(bytes));
    decipher.setAuthTag(bytes.subarray(tag, end));
    const plain = decipher.update(bytes.subarray(payload + IN_FRONT, tag));
    try {
      decipher.final();
    } catch {
      return EBADMSG;
    }
    this.#senders.take(nonce, 0, counter);
    bytes.set(plain, payload);
    packet.rewrite(bytes, plain[plain.length - 1]!, end - GROWTH);
    return packet.end - at;
  }

  /** A nonce that was never had before. */
  #next(queue: number): Buffer {
    const known = this.#outgoing[queue];
    const outgoing = known ?? { nonce: Buffer.alloc(NONCE_BYTES, FORMAT), counter: this.#packetsPerPrefix };
    this.#outgoing[queue] = outgoing;
    if (outgoing.counter === this.#packetsPerPrefix) {
      outgoing.nonce.set(this.#freshPrefix());
      outgoing.counter = 0;
    }
    outgoing.nonce.writeUInt32BE(outgoing.counter++, PREFIX_BYTES);
    return outgoing.nonce;
  }

  /** One that nobody has had as far as we know. */
  #freshPrefix(): Uint8Array {
    let prefix: Uint8Array;
    do prefix = randomBytes(PREFIX_BYTES);
    while (!this.#senders.claim(prefix));
    return prefix;
  }
}
