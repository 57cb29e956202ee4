/** One end of a flow (traffic.ts): sends or receives in a loop that blocks, and reports once. */
import { createHash } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import { EAGAIN, LinuxError } from '../../src/linux/errors.js';
import type { OwnedFd } from '../../src/linux/fd.js';
import { openNetns } from '../../src/linux/netns.js';
import { Poller } from '../../src/linux/poll.js';
import { listenTcp, openTcp, openUdp, type Socket } from '../../src/linux/socket.js';
import { UdpBatch } from '../../src/linux/udp-batch.js';
import { Content, MAX_DATAGRAM } from './content.js';
import {
  type Message,
  type Sent,
  SHARED,
  type Tally,
  type Task,
  type TaskData,
  type Transfer,
} from './traffic.js';

const ANYWHERE = '0.0.0.0';
const BUFFERS = 8 << 20;
/** How long a blocking call may take before the loop looks whether it is to stop. */
const LOOK_MS = 100;
/** A flow with a window that stands still for so long has lost something. */
const STALL_MS = 60_000;
const TCP_CHUNK = 64 * 1024;

const { task, netns, shared } = workerData as TaskData;
const counters = new Int32Array(shared);

function stopped(): boolean {
  return Atomics.load(counters, SHARED.STOP) !== 0;
}

function tell(message: Message): void {
  parentPort!.postMessage(message);
}

function sendUdp(own: OwnedFd, { to, port, seed, count, window, pace }: Task & { role: 'udp-send' }): Sent {
  const content = new Content(seed);
  const datagram = Buffer.alloc(MAX_DATAGRAM);
  const clock = new Poller(0);
  let packets = 0;
  let bytes = 0;
  let refused = 0;
  let socket: Socket | null = null;
  const start = performance.now();
  for (let n = 0; n < count && !stopped(); n++) {
    if (window > 0) {
      if (!roomInWindow(n, window)) break;
    } else if (n % 16 === 0) {
      const early = (n / pace) * 1000 - (performance.now() - start);
      if (early > 1) clock.wait(early);
    }
    const length = content.writeDatagram(n, datagram);
    // Without interface or route even connecting fails; the socket is made anew when they are back.
    try {
      if (!socket) {
        socket = openUdp(to, { netns: own }).setBuffers({ send: BUFFERS });
        socket.connect({ ip: to, port });
      }
      const result = socket.send(datagram, length);
      if (result !== length) throw new LinuxError('send', -result, `datagram ${n}`);
      packets++;
      bytes += length;
    } catch (error) {
      if (window > 0 || !(error instanceof LinuxError)) throw error;
      refused++;
      socket?.close();
      socket = null;
    }
  }
  socket?.close();
  return { packets, bytes, refused };
}

/** Waits until fewer than `window` datagrams are under way. False: told to stop. */
function roomInWindow(n: number, window: number): boolean {
  for (let waited = 0; ; ) {
    const received = Atomics.load(counters, SHARED.RECEIVED);
    if (n - received < window) return true;
    if (stopped()) return false;
    if (Atomics.wait(counters, SHARED.RECEIVED, received, LOOK_MS) !== 'timed-out') waited = 0;
    else if ((waited += LOOK_MS) >= STALL_MS) {
      throw new Error(`datagram ${n}: only ${received} before it have come, nothing for ${STALL_MS} ms`);
    }
  }
}

function receiveUdp(own: OwnedFd, { port, seed, count }: Task & { role: 'udp-receive' }): Tally {
  const content = new Content(seed);
  const batch = new UdpBatch(64, 2048);
  const datagrams = Buffer.from(batch.payload.buffer, batch.payload.byteOffset, batch.payload.length);
  const socket = openUdp(ANYWHERE, { netns: own }).setBuffers({ receive: BUFFERS }).setTimeouts(LOOK_MS);
  socket.bind({ ip: ANYWHERE, port });
  tell('ready');
  let packets = 0;
  let bytes = 0;
  let corrupt = 0;
  let repeated = 0;
  let late = 0;
  const seen = new Set<number>(); // of the latest few thousand
  let last = -1;
  let first = 0;
  let latest = 0;
  while (packets < count) {
    const target = Atomics.load(counters, SHARED.TARGET);
    if (target > 0 && packets >= target) {
      Atomics.store(counters, SHARED.TARGET, 0);
      tell('reached');
    }
    const got = batch.receive(socket.fd, true);
    if (got === -EAGAIN) {
      if (stopped()) break;
      continue;
    }
    if (got < 0) throw new LinuxError('recvmmsg', -got, socket.name);
    latest = performance.now();
    if (packets === 0) first = latest;
    for (let i = 0; i < got; i++) {
      const length = batch.length(i);
      const n = content.readDatagram(datagrams.subarray(i * 2048, i * 2048 + length));
      if (n < 0) corrupt++;
      else if (n > last) last = n;
      else if (seen.has(n)) repeated++;
      else late++;
      seen.add(n);
      seen.delete(n - 8192);
      bytes += length;
    }
    packets += got;
    Atomics.store(counters, SHARED.REPEATED, repeated);
    Atomics.store(counters, SHARED.RECEIVED, packets);
    Atomics.notify(counters, SHARED.RECEIVED);
  }
  socket.close();
  return { packets, bytes, corrupt, repeated, late, seconds: (latest - first) / 1000 };
}

function sendTcp(own: OwnedFd, { to, port, seed, bytes }: Task & { role: 'tcp-send' }): Transfer {
  const content = new Content(seed);
  const hash = createHash('sha256');
  const socket = openTcp(to, { netns: own }).setTimeouts(STALL_MS).connect({ ip: to, port });
  const start = performance.now();
  for (let n = 0, left = bytes; left > 0; n++) {
    const chunk = content.piece(n, Math.min(left, TCP_CHUNK));
    for (let at = 0; at < chunk.length; ) {
      const sent = socket.send(chunk.subarray(at), chunk.length - at);
      if (sent < 0) throw new LinuxError('send', -sent, `${left} bytes before the end`);
      at += sent;
    }
    hash.update(chunk);
    left -= chunk.length;
  }
  socket.endSending();
  // The end of the other side: all has arrived.
  const end = socket.recv(Buffer.alloc(1), 1);
  if (end !== 0) throw new LinuxError('recv', -end, 'the end of the connection');
  socket.close();
  return { bytes, sha256: hash.digest('hex'), seconds: (performance.now() - start) / 1000 };
}

function receiveTcp(own: OwnedFd, { at, port }: Task & { role: 'tcp-receive' }): Transfer {
  const listener = listenTcp({ ip: at, port }, { netns: own });
  tell('ready');
  const socket = listener.accept()!.setTimeouts(STALL_MS);
  const hash = createHash('sha256');
  const buffer = Buffer.alloc(256 * 1024);
  const start = performance.now();
  let bytes = 0;
  for (;;) {
    const got = socket.recv(buffer, buffer.length);
    if (got < 0) throw new LinuxError('recv', -got, `after ${bytes} bytes`);
    if (got === 0) break;
    hash.update(buffer.subarray(0, got));
    bytes += got;
  }
  socket.close();
  listener.close();
  return { bytes, sha256: hash.digest('hex'), seconds: (performance.now() - start) / 1000 };
}

function perform(own: OwnedFd): Sent | Tally | Transfer {
  switch (task.role) {
    case 'udp-send':
      return sendUdp(own, task);
    case 'udp-receive':
      return receiveUdp(own, task);
    case 'tcp-send':
      return sendTcp(own, task);
    case 'tcp-receive':
      return receiveTcp(own, task);
  }
}

const own = openNetns(netns);
try {
  tell({ result: perform(own) });
} finally {
  own.close();
}
