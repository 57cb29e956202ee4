/**
 * A hypervisor and a guest driver of other making: the messages are those that a QEMU sent (test/data/bpfhv-proxy), byte for byte, and
 * the ring is driven by hand (sring-driver.ts).
 *
 * ```
 *   recording ── raw messages, fds ──► polynic serve ══ TAP ══ hst0 ── packet socket ── test
 *   test ── sring by hand, in 512 MiB of shared memory ──►
 * ```
 */
import assert from 'node:assert/strict';
import { decodeRequest, HEADER_SIZE } from '../../src/control/bpfhv-proxy/messages.js';
import { type Exchange, readRecording } from '../../src/control/bpfhv-proxy/testing.js';
import { EventFd } from '../../src/linux/eventfd.js';
import type { OwnedFd } from '../../src/linux/fd.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { alignedOffset, type Mapping, mapOnto } from '../../src/linux/mmap.js';
import { openPacket, type Socket } from '../../src/linux/socket.js';
import { sharedMemory } from '../../src/linux/testing.js';
import { UnixListener } from '../../src/linux/unix-listener.js';
import type { UnixSocket } from '../../src/linux/unix-socket.js';
import { watchReadable } from '../../src/linux/watch.js';
import { Content } from './content.js';
import { type Link, linkTest } from './harness.js';
import { type Completion, SringQueue } from './sring-driver.js';

const MEMORY_SIZE = 512 << 20;
const CONTEXT_SIZE = 0x2230;
const GROUP = 100; // of frames under way at once; the queues have 256 descriptors
const RX = 0;
const TX = 1;
const BUFFER = 2048;
const RX_ROOM = 1518;
/** Guest physical addresses: below and above the hole that the recorded table with two regions has, and in it. */
const LOW = 0x0002_0000;
const HIGH = 0x0800_0000;
const HOLE = 0x000d_0000;
const WAIT_MS = 60_000;

const content = new Content(61);
const HOST_MAC = Uint8Array.of(0x02, 0, 0, 0, 0, 1);
const GUEST_MAC = Uint8Array.of(0x02, 0, 0, 0, 0, 2);

linkTest(
  'QEMU as recorded and a driver by hand: frames both ways, restart, two regions',
  { listener: 'test' },
  async link => {
    const listener = UnixListener.listen(link.socket);
    const connected = new Promise<UnixSocket>((resolve, reject) => listener.onConnection(resolve, reject));
    const vmm = new Vmm(await connected);
    const packets = openPacket('hst0', { netns: link.hostEnd.netns }).setTimeouts(WAIT_MS);
    try {
      const recording = readRecording('sring');
      const starts = recording.flatMap(({ name }, i) => (name === 'TX_ENABLE' ? [i + 1] : []));
      assert.equal(starts.length, 2, 'the recording starts the NIC twice');
      const holed = recording.find(
        ({ requestFds, request }) => requestFds.length === 2 && sizeOfFirstRegion(request) === 0xc_0000n,
      )!;
      assert.ok(holed, 'the recording has a table of two regions');

      const enable = starts[0]! - 2; // RX_ENABLE and TX_ENABLE: from then on the worker writes there as well
      await vmm.replay(recording.slice(0, enable));
      assert.deepEqual(vmm.queue(RX).setUp, { qmask: 255, kickEnabled: 1, intr: 1, prod: 0, cons: 0 });
      await vmm.replay(recording.slice(enable, starts[0]));
      await exchange(vmm, packets, { seed: 0, at: () => HIGH });

      await vmm.replay(recording.slice(starts[0], starts[1]));
      await exchange(vmm, packets, { seed: 10_000, at: () => HIGH });
      // The memory table changes while the NIC runs; buffers are in either region now.
      await vmm.replay([holed]);
      await exchange(vmm, packets, { seed: 20_000, at: n => (n % 2 === 0 ? LOW : HIGH) });
      await outside(link, vmm, packets);

      await vmm.replay(recording.slice(starts[1]));
      const said = link.serve.says(/hypervisor gone/);
      vmm.close();
      await said;
    } finally {
      vmm.close();
      packets.close();
      listener.close();
    }
  },
);

/** A guest as seen from below: its memory, its eventfds, and the socket to the backend. */
class Vmm {
  readonly memory = createMemfd({ name: 'guest memory', size: MEMORY_SIZE });
  readonly kicks = [EventFd.create('rx kick'), EventFd.create('tx kick')] as const;
  readonly irqs = [EventFd.create('rx irq'), EventFd.create('tx irq')] as const;
  readonly bytes: Uint8Array;
  readonly #upgrade = EventFd.create('upgrade');
  readonly #socket: UnixSocket;
  readonly #window = sharedMemory();
  readonly #base: number;
  readonly #mapping: Mapping;
  readonly #contexts = new Map<number, number>();

  constructor(socket: UnixSocket) {
    this.#socket = socket;
    this.#base = alignedOffset(this.#window, 0, 4096);
    const range = { fd: this.memory.fd, length: MEMORY_SIZE, name: 'guest memory' };
    this.#mapping = mapOnto(this.#window, this.#base, range);
    this.bytes = new Uint8Array(this.#window.buffer, this.#base, MEMORY_SIZE);
  }

  /** The ring of a queue, where the recording put it. */
  queue(index: number): SringQueue {
    return new SringQueue(this.#window.buffer, this.#base + this.#contexts.get(index)!, CONTEXT_SIZE);
  }

  /** Sends each recorded request as it was, with descriptors of ours, and demands the recorded response. */
  async replay(exchanges: readonly Exchange[]): Promise<void> {
    for (const { name, request, requestFds, response, responseFds } of exchanges) {
      const decoded = decodeRequest({
        reqtype: new DataView(request.buffer).getUint32(0, true),
        flags: 1,
        payload: request.subarray(HEADER_SIZE),
        fds: requestFds.map(() => this.memory),
        fdFault: null,
      });
      if (decoded.name === 'SET_QUEUE_CTX') {
        this.#contexts.set(decoded.values.queue, Number(decoded.values.guestPhysicalAddress));
      }
      const queue = 'queue' in decoded.values ? decoded.values.queue : 0;
      const kinds: Partial<Record<typeof name, OwnedFd>> = {
        SET_QUEUE_KICK: this.kicks[queue]!.owner,
        SET_QUEUE_IRQ: this.irqs[queue]!.owner,
        SET_UPGRADE: this.#upgrade.owner,
      };
      const fds = requestFds.map(() => kinds[name] ?? this.memory);
      this.#socket.send(
        request,
        fds.map(fd => fd.fd),
      );
      const got = await this.#receive(response.length);
      assert.deepEqual(got.bytes, response, `the response to ${name}`);
      assert.equal(got.fds, responseFds.length, `descriptors with the response to ${name}`);
    }
  }

  close(): void {
    this.#socket.close();
    this.#mapping.close();
    this.memory.close();
    for (const eventfd of [...this.kicks, ...this.irqs, this.#upgrade]) eventfd.close();
  }

  async #receive(length: number): Promise<{ bytes: Uint8Array; fds: number }> {
    const bytes = new Uint8Array(length);
    let fds = 0;
    for (let filled = 0; filled < length; ) {
      const got = this.#socket.receive(bytes.subarray(filled));
      if (!got) {
        await new Promise<void>(resolve => this.#socket.onReadable(resolve));
        continue;
      }
      assert.ok(got.bytes > 0, 'the backend hung up');
      filled += got.bytes;
      fds += got.fds.length;
      for (const fd of got.fds) fd.close();
    }
    return { bytes, fds };
  }
}

/** 1000 frames each way, in groups; `at` says in which part of the memory the n-th buffer of a group lies. */
async function exchange(
  vmm: Vmm,
  packets: Socket,
  { seed, at }: { seed: number; at: (n: number) => number },
): Promise<void> {
  for (let n = seed; n < seed + 1000; n += GROUP) {
    await transmit(vmm, packets, frames(n, GROUP, HOST_MAC, GUEST_MAC), at);
    await receive(vmm, packets, frames(n + 500_000, GROUP, GUEST_MAC, HOST_MAC), at);
  }
}

function frames(first: number, count: number, to: Uint8Array, from: Uint8Array): Buffer[] {
  return Array.from({ length: count }, (_, i) => {
    const n = first + i;
    return content.frame(n, content.size(n, 14, 1514), to, from);
  });
}

async function transmit(
  vmm: Vmm,
  packets: Socket,
  sent: readonly Buffer[],
  at: (n: number) => number,
): Promise<void> {
  const tx = vmm.queue(TX);
  tx.interruptAfter(sent.length);
  const places = sent.map((_, i) => at(i) + i * BUFFER);
  for (const [i, frame] of sent.entries()) {
    vmm.bytes.set(frame, places[i]!);
    if (tx.post(BigInt(i), BigInt(places[i]!), frame.length)) vmm.kicks[TX].signal();
  }
  for (const [i, frame] of sent.entries()) assert.deepEqual(next(packets), frame, `frame ${i} of the guest`);
  await interrupted(vmm.irqs[TX]);
  for (const [i, frame] of sent.entries()) {
    assert.deepEqual(tx.take(), { cookie: BigInt(i), paddr: BigInt(places[i]!), length: frame.length });
  }
  assert.equal(tx.take(), null);
}

async function receive(
  vmm: Vmm,
  packets: Socket,
  sent: readonly Buffer[],
  at: (n: number) => number,
): Promise<void> {
  const rx = vmm.queue(RX);
  rx.setInterrupts(true);
  const places = sent.map((_, i) => at(i) + (GROUP + i) * BUFFER);
  for (const [i, place] of places.entries()) {
    if (rx.post(BigInt(1000 + i), BigInt(place), RX_ROOM)) vmm.kicks[RX].signal();
  }
  for (const frame of sent) packets.send(frame, frame.length);
  for (const [i, frame] of sent.entries()) {
    assert.deepEqual(await taken(rx, vmm.irqs[RX]), {
      cookie: BigInt(1000 + i),
      paddr: BigInt(places[i]!),
      length: frame.length,
    });
    const bytes = Buffer.from(vmm.bytes.slice(places[i]!, places[i]! + frame.length));
    assert.deepEqual(bytes, frame, `frame ${i} for the guest`);
  }
  assert.equal(rx.take(), null);
}

/** Descriptors that point into the hole between the regions, across its edge, or far away: counted, not used, and given back. */
async function outside(link: Link, vmm: Vmm, packets: Socket): Promise<void> {
  const tx = vmm.queue(TX);
  const errors = async () => (await link.serve.counters()).queues[TX]!.errors;
  const before = await errors();
  const [good] = frames(30_000, 1, HOST_MAC, GUEST_MAC);
  vmm.bytes.set(good!, LOW);
  const bad = [HOLE, 0xc_0000 - 8, MEMORY_SIZE - 8, 2 ** 52].map(BigInt);
  tx.interruptAfter(bad.length + 1);
  for (const [i, gpa] of [...bad, BigInt(LOW)].entries()) {
    if (tx.post(BigInt(i), gpa, good!.length)) vmm.kicks[TX].signal();
  }
  assert.deepEqual(next(packets), good);
  await interrupted(vmm.irqs[TX]);
  for (let i = 0; i <= bad.length; i++) assert.equal(tx.take()?.cookie, BigInt(i));
  assert.equal((await errors()) - before, bad.length);

  const rx = vmm.queue(RX);
  for (const [i, gpa] of [HOLE, LOW].entries()) {
    if (rx.post(BigInt(i), BigInt(gpa), RX_ROOM)) vmm.kicks[RX].signal();
  }
  packets.send(good!, good!.length);
  const irq = vmm.irqs[RX];
  assert.deepEqual(await taken(rx, irq), { cookie: 0n, paddr: BigInt(HOLE), length: 0 });
  assert.deepEqual(await taken(rx, irq), { cookie: 1n, paddr: BigInt(LOW), length: good!.length });
}

/** The next frame that the host's kernel gets from the NIC. */
function next(packets: Socket): Buffer {
  const buffer = Buffer.alloc(2048);
  const got = packets.recv(buffer, buffer.length);
  assert.ok(got > 0, `no frame: ${got}`);
  return buffer.subarray(0, got);
}

/** The next completion, with an interrupt to say so if it is not there yet. */
async function taken(queue: SringQueue, irq: EventFd): Promise<Completion> {
  let got = queue.take();
  while (got === null) {
    await interrupted(irq);
    got = queue.take();
  }
  return got;
}

async function interrupted(irq: EventFd): Promise<void> {
  while (irq.drain() === 0) {
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => settle(() => reject(new Error(`no interrupt: ${irq.name}`))), WAIT_MS);
      const watch = watchReadable(irq.fd, () => settle(resolve));
      const settle = (then: () => void): void => {
        clearTimeout(timer);
        watch.close();
        then();
      };
    });
  }
}

/** Of a raw SET_MEM_TABLE. */
function sizeOfFirstRegion(request: Uint8Array): bigint {
  return new DataView(request.buffer).getBigUint64(HEADER_SIZE + 16, true);
}
