/**
 * Small datagrams, numbered: as many a second as get through, or so many a second.
 *
 *   u32 number │ u32 number scrambled │ 10 bytes        with its headers the smallest Ethernet frame
 *
 * The sender keeps a limited number of datagrams on their way: the receiver, a thread of the same process, tells it in shared memory how many
 * have arrived. So no queue on the way, of a socket or of a TAP, overflows, and what is lost, the NIC has lost. At full speed the limit is
 * what sets the pace. A sender with a pace goes by the clock, also while the NIC stands still; its limit is no more than the receiver's socket can
 * hold.
 */
import { monotonicNs } from '../../linux/clock.js';
import { check, EAGAIN, EINTR, ENOBUFS } from '../../linux/errors.js';
import { type Endpoint, openUdp } from '../../linux/socket.js';
import { UdpBatch } from '../../linux/udp-batch.js';
import { ARRIVED, CAPACITY, RECEIVED, SENT, type Shared } from './shared.js';

const LENGTH = 18;
const BATCH = 64;
/** Under way at most, at full speed. */
const WINDOW = 256;
/** The same by the clock: at 60 000 a second a blackout of 68 ms does not stop the sender. Many more would make TCP beside it wait for an RTO. */
const PACED_WINDOW = 4096;
const RECEIVE_BUFFER = 4 << 20;
/** Of the kernel's memory, for a small datagram in a socket's queue: no less than it takes. */
const DATAGRAM_MEMORY = 2048;
const LOOK_MS = 100;
/** When nothing has arrived for so long, what was on its way is lost. */
const LOST_AFTER_MS = 1000;
/** How far behind the newest a datagram may be and still be told from one that came twice. */
const HISTORY = 1 << 16;

export interface UdpReceiveWork {
  readonly op: 'udpReceive';
  readonly at: Endpoint;
}

export interface UdpSendWork {
  readonly op: 'udpSend';
  readonly to: Endpoint;
  readonly forMs: number;
  /** Datagrams a second; default: as many as get through. */
  readonly pace?: number;
}

export interface UdpReceived {
  /** Different datagrams. */
  readonly received: number;
  /** Those that a later one had overtaken. */
  readonly reordered: number;
  /** Came twice, or carried what nobody sent. */
  readonly foreign: number;
  /** Those that the socket itself had no room for. */
  readonly dropped: number;
}

export interface UdpSent {
  readonly sent: number;
  /** From the first datagram sent to the last one arrived. */
  readonly seconds: number;
}

/** Receives until the sender is done and nothing more comes. */
export function udpReceive({ at }: UdpReceiveWork, shared: Shared, ready: () => void): UdpReceived {
  using socket = openUdp(at.ip).setBuffers({ receive: RECEIVE_BUFFER }).setTimeouts(LOOK_MS).bind(at);
  const batch = new UdpBatch(BATCH, LENGTH);
  const words = new DataView(batch.payload.buffer, batch.payload.byteOffset, batch.payload.length);
  const seen = new Uint8Array(HISTORY);
  let next = 0;
  let received = 0;
  let reordered = 0;
  let foreign = 0;
  Atomics.store(shared.words, CAPACITY, Math.floor(socket.receiveMemory().limit / DATAGRAM_MEMORY));
  ready();
  for (;;) {
    const n = batch.receive(socket.fd, true);
    if (n === -EAGAIN || n === -EINTR) {
      if (shared.over || shared.stopped) break;
      continue;
    }
    check(n, 'recvmmsg', socket.name);
    for (let i = 0; i < n; i++) {
      const number = words.getUint32(i * LENGTH);
      const genuine = batch.length(i) === LENGTH && words.getUint32(i * LENGTH + 4) === scramble(number);
      if (!genuine || number + HISTORY < next || (number < next && seen[number % HISTORY] !== 0)) {
        foreign++;
        continue;
      }
      if (number < next) reordered++;
      for (; next <= number; next++) seen[next % HISTORY] = 0;
      seen[number % HISTORY] = 1;
      received++;
    }
    shared.amounts[RECEIVED] = received;
    Atomics.store(shared.words, ARRIVED, received | 0);
    Atomics.notify(shared.words, ARRIVED);
  }
  return { received, reordered, foreign, dropped: socket.receiveMemory().dropped };
}

/** Sends for so long, and then waits for what is on its way. */
export function udpSend({ to, forMs, pace }: UdpSendWork, shared: Shared): UdpSent {
  using socket = openUdp(to.ip).connect(to);
  const batch = new UdpBatch(BATCH, LENGTH);
  const words = new DataView(batch.payload.buffer, batch.payload.byteOffset, batch.payload.length);
  const window = pace === undefined ? WINDOW : Math.min(PACED_WINDOW, Atomics.load(shared.words, CAPACITY));
  let sent = 0;
  /** Given up. */
  let lost = 0;
  const begin = monotonicNs();
  const end = begin + forMs * 1e6;
  while (!shared.stopped) {
    const arrived = Atomics.load(shared.words, ARRIVED);
    const underWay = (sent - lost - arrived) | 0;
    const now = monotonicNs();
    const done = now >= end;
    if (done && underWay <= 0) break;
    if (done || underWay > window - BATCH) {
      if (Atomics.wait(shared.words, ARRIVED, arrived, LOST_AFTER_MS) === 'timed-out') lost += underWay;
      continue;
    }
    // Who is late sends batch after batch until it has caught up with the clock.
    const early = pace === undefined ? 0 : ((sent + BATCH) / pace) * 1000 - (now - begin) / 1e6;
    if (early > 0) {
      shared.sleep(early);
      continue;
    }
    for (let i = 0; i < BATCH; i++) {
      words.setUint32(i * LENGTH, sent + i);
      words.setUint32(i * LENGTH + 4, scramble(sent + i));
    }
    const n = batch.send(socket.fd, 0, BATCH, LENGTH);
    if (n === -EAGAIN || n === -ENOBUFS || n === -EINTR) shared.sleep(1);
    else sent += check(n, 'sendmmsg', socket.name);
    shared.amounts[SENT] = sent;
  }
  return { sent, seconds: (monotonicNs() - begin) / 1e9 };
}

function scramble(number: number): number {
  return (Math.imul(number, 0x9e3779b1) ^ 0x5a5a5a5a) >>> 0;
}
