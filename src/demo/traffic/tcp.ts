/**
 * One TCP stream as fast as it goes, whose every byte is compared.
 *
 * The stream repeats one block of random bytes. Its length is a prime number, so that bytes lost, doubled or moved by whatever a NIC
 * might do (a buffer, a frame, a page) do not meet their like. Comparing costs a memcmp a piece.
 *
 * ```
 *   block  │ PERIOD random bytes │ its first PIECE bytes again │       so that a piece may begin anywhere; PIECE < PERIOD
 * ```
 */
import { monotonicNs } from '../../linux/clock.js';
import { check, EAGAIN, EINTR } from '../../linux/errors.js';
import { type Endpoint, listenTcp, openTcp, type Socket } from '../../linux/socket.js';
import { RECEIVED, SENT, type Shared } from './shared.js';

const PERIOD = 262_147;
const PIECE = 256 * 1024;
/** What may be on its way: less than a TAP's queue of 1000 frames holds, so that the kernel has nothing to drop. */
const RECEIVE_BUFFER = 1 << 20;
/** With a pace: so much to send next that a sender without a processor for a while does not look like one at its end, to TCP. */
const SEND_BUFFER = 4 << 20;
const SEED = 0x9e3779b9;
/** Calls look at the stop word this often, and give up after so many looks without a byte. */
const LOOK_MS = 200;
const STALLED_LOOKS = 25;

export interface TcpReceiveWork {
  readonly op: 'tcpReceive';
  readonly at: Endpoint;
}

export interface TcpSendWork {
  readonly op: 'tcpSend';
  readonly to: Endpoint;
  readonly forMs: number;
  /** Bytes a second at most; default: as many as get through. */
  readonly pace?: number;
}

export interface TcpReceived {
  readonly bytes: number;
  /** From the first byte to the last. */
  readonly seconds: number;
  /** Where the stream first differed from what was sent; null: nowhere. */
  readonly corruptAt: number | null;
}

export interface TcpSent {
  readonly bytes: number;
  /** Segments that were sent again. */
  readonly retransmissions: number;
  /** Segments of which the sender knows that they came more than once. */
  readonly cameTwice: number;
}

/** Accepts one connection and reads it to its end. `ready` is called when connections are possible. */
export function tcpReceive({ at }: TcpReceiveWork, shared: Shared, ready: () => void): TcpReceived {
  using listener = listenTcp(at).setTimeouts(LOOK_MS).setBuffers({ receive: RECEIVE_BUFFER });
  ready();
  using socket = patiently(shared, 'nobody connects', () => listener.accept() ?? -EAGAIN);
  socket.setTimeouts(LOOK_MS);
  const expected = makeBlock();
  const buffer = Buffer.alloc(PIECE);
  let bytes = 0;
  let corruptAt: number | null = null;
  let first = 0;
  for (;;) {
    const n = patiently(shared, 'nothing arrives any more', () => socket.recv(buffer, PIECE));
    check(n, 'recv', socket.name);
    if (n === 0) break;
    if (bytes === 0) first = monotonicNs();
    const offset = bytes % PERIOD;
    if (corruptAt === null && buffer.compare(expected, offset, offset + n, 0, n) !== 0) corruptAt = bytes;
    bytes += n;
    shared.amounts[RECEIVED] = bytes;
  }
  return { bytes, seconds: (monotonicNs() - first) / 1e9, corruptAt };
}

/** Connects, sends for so long, and waits until the receiver has read it all and closed. */
export function tcpSend({ to, forMs, pace }: TcpSendWork, shared: Shared): TcpSent {
  using socket = openTcp(to.ip).setTimeouts(LOOK_MS * STALLED_LOOKS);
  if (pace !== undefined) socket.setPace(pace).setBuffers({ send: SEND_BUFFER });
  socket.connect(to).setTimeouts(LOOK_MS);
  const block = makeBlock();
  let bytes = 0;
  const end = monotonicNs() + forMs * 1e6;
  while (monotonicNs() < end) {
    const piece = block.subarray(bytes % PERIOD);
    const n = patiently(shared, 'nothing can be sent any more', () => socket.send(piece, PIECE));
    bytes += check(n, 'send', socket.name);
    shared.amounts[SENT] = bytes;
  }
  socket.endSending();
  const nothing = Buffer.alloc(1);
  const n = patiently(shared, 'the receiver does not finish', () => socket.recv(nothing, 1));
  check(n, 'recv', socket.name);
  const { sent, cameTwice } = socket.retransmissions();
  return { bytes, retransmissions: sent, cameTwice };
}

/** Tries until there is something else than "not yet". Throws when the demo stops, or for too long nothing comes. */
function patiently<T extends number | Socket>(
  shared: Shared,
  complaint: string,
  attempt: () => T | number,
): T {
  for (let looks = 0; looks < STALLED_LOOKS && !shared.stopped; looks++) {
    const result = attempt();
    if (result !== -EAGAIN && result !== -EINTR) return result as T;
  }
  throw new Error(shared.stopped ? 'stopped' : `${complaint}: ${(LOOK_MS * STALLED_LOOKS) / 1000} s`);
}

/** The same bytes at either end. */
function makeBlock(): Buffer {
  const block = Buffer.alloc(PERIOD + PIECE);
  let state = SEED;
  for (let i = 0; i < PERIOD; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    block[i] = state;
  }
  block.copy(block, PERIOD, 0, PIECE);
  return block;
}
