/**
 * A virtio NIC behind a vhost-user socket, and a guest whose steps a test makes itself.
 *
 * ```
 *   test ── script ──► Peer ── socket ──► serveVhostUser ──► VirtioNic ──► port
 *        ── publish, poll ──► rings in a memfd ◄──────────── worker
 *        ── kick (eventfd) ────────────────────────────────►
 *        ◄──────────────────────────────── call (eventfd)
 * ```
 */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { GuestRam } from '../../src/guest/guest-ram.js';
import { EventFd } from '../../src/linux/eventfd.js';
import { countProcessFds, type OwnedFd, openFds } from '../../src/linux/fd.js';
import { openMappings } from '../../src/linux/mmap.js';
import { socketPair, type UnixSocket } from '../../src/linux/unix-socket.js';
import { VirtioNic, type VirtioNicOptions } from '../../src/nic/virtio-nic.js';
import { type FlowCounters, readFlow } from '../../src/port/flow.js';
import type { PortHandle } from '../../src/port/port.js';
import { openPort } from '../../src/port/registry.js';
import { Batch } from '../../src/ring/batch.js';
import { loadDatapath } from '../../src/ring/datapath.js';
import { VirtqDriver } from '../../src/ring/virtio/driver.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena, payload, window } from '../compliance/testbed.js';
import { NoteTakingVhost, Peer, type Supply, say } from './vhost-user-peer.js';
import type { Place, Step } from './vhost-user-scripts.js';

export { NoteTakingVhost, window };

export interface VirtioRigOptions extends Partial<VirtioNicOptions> {
  readonly portSpec?: string;
  /** What the guest's driver takes. */
  readonly accept?: bigint;
  readonly num?: number;
  /** Bytes of payload that a buffer of the guest's holds. */
  readonly room?: number;
  /** Buffers that a frame of the guest's may take. */
  readonly frameBuffers?: number;
  readonly pairs?: number;
  /** Where the front end has the memory; default: not where the guest has it. */
  readonly userspace?: bigint;
  /** In how many regions the memory is told. */
  readonly cut?: number;
  readonly ramSize?: number;
  /** The guest's drivers are behind an IOMMU that adds so much to guest physical addresses; accept ACCESS_PLATFORM as well. */
  readonly iommu?: bigint;
}

/** A test on rigs that end with it, whatever happens; then nothing may be left: descriptors, mappings, pieces of the arena. */
export function virtioTest(
  name: string,
  body: (start: (options?: VirtioRigOptions) => Promise<VirtioRig>, t: TestContext) => Promise<void>,
): void {
  test(name, { timeout: 60_000 }, async t => {
    const held = () => ({ live: arena.live, fds: openFds(), mappings: openMappings() });
    const before = held();
    const all = countProcessFds();
    const rigs: VirtioRig[] = [];
    try {
      await body(async options => {
        const rig = await VirtioRig.start(options);
        rigs.push(rig);
        return rig;
      }, t);
    } finally {
      for (const rig of rigs) await rig.close();
    }
    assert.deepEqual(held(), before, 'left behind');
    assert.ok(countProcessFds() <= all, `${countProcessFds() - all} descriptors left behind the table`);
  });
}

const { calls } = loadDatapath(window);
const PAGE = 4096n;

export class VirtioRig {
  readonly nic: VirtioNic;
  readonly port: PortHandle;
  readonly log: string[];
  readonly ram: GuestRam;
  readonly drivers: readonly VirtqDriver[];
  readonly kicks: readonly EventFd[];
  readonly calls: readonly EventFd[];
  readonly errors: readonly EventFd[];
  readonly place: Place;
  /** The backend's own channels, as far as the front end has made any. */
  readonly channels: UnixSocket[] = [];
  peer: Peer;
  readonly #flows: readonly number[];
  readonly #batch = Batch.allocate(window, arena);
  #closed = false;

  private constructor(nic: VirtioNic, port: PortHandle, log: string[], options: VirtioRigOptions) {
    const { accept = F.VERSION_1, num = 64, pairs = 1, userspace, cut = 2, ramSize = 8 << 20 } = options;
    this.nic = nic;
    this.port = port;
    this.log = log;
    this.ram = new GuestRam(window, ramSize);
    const signals = (what: string) =>
      Array.from({ length: 2 * pairs }, (_, i) => EventFd.create(`${what} ${i}`));
    this.kicks = signals('kick');
    this.calls = signals('call');
    this.errors = signals('error');
    this.#flows = signals('flow').map(unused => {
      unused.close();
      return arena.allocate(L.PORT_SIZE);
    });
    const { ram } = this;
    const space = {
      allocate: (size: number) => ram.allocate(size),
      free: (address: number) => ram.free(address),
      toGuest: (address: number) => ram.toGuest(address) + (options.iommu ?? 0n),
    };
    this.drivers = this.kicks.map(
      (_, i) =>
        new VirtqDriver({ window, arena, calls }, space, {
          direction: i % 2 === 0 ? 'rx' : 'tx',
          ...{ features: accept, num },
          ...(options.room === undefined ? {} : { room: options.room }),
          ...(options.frameBuffers === undefined ? {} : { frameBuffers: options.frameBuffers }),
        }),
    );
    const start = ram.guestPhysicalAddress;
    const shift = (userspace ?? 0x7f00_0000_0000n) - start;
    const step = (BigInt(ram.size) / BigInt(cut) / PAGE) * PAGE;
    const regions = Array.from({ length: cut }, (_, i) => {
      const offset = BigInt(i) * step;
      const gpa = start + offset;
      const size = i + 1 === cut ? BigInt(ram.size) - offset : step;
      return { guestPhysicalAddress: gpa, size, userspaceAddress: gpa + shift, mmapOffset: offset };
    });
    const ring = (index: number) => {
      const { descriptor, driver, device } = this.drivers[index]!.areas;
      if (options.iommu !== undefined) return { descriptor, available: driver, used: device };
      return { descriptor: descriptor + shift, available: driver + shift, used: device + shift };
    };
    this.place = { features: accept, regions, size: num, base: this.drivers[0]!.base, ring };
    this.peer = new Peer(nic);
  }

  static async start({
    portSpec = 'sink',
    pairs = 1,
    ...options
  }: VirtioRigOptions = {}): Promise<VirtioRig> {
    const log: string[] = [];
    const port = openPort(portSpec, { window, arena }, pairs);
    const nic = await VirtioNic.start({
      ...{ window, arena, port, limits: { queuePairs: Math.max(2, pairs), bufs: 8192 } },
      log: (level, message) => log.push(`${level}: ${message}`),
      ...options,
    });
    return new VirtioRig(nic, port, log, { pairs, ...options });
  }

  /** Another front end, after the former one is gone. */
  async reconnect(): Promise<void> {
    await this.peer.close();
    this.peer = new Peer(this.nic);
  }

  say(...scripts: readonly (readonly Step[])[]): Promise<void> {
    return say(this.peer, scripts.flat(), this.supply);
  }

  /** What a script's step carries: the guest's memory, and the eventfd of the ring that it names. */
  supply: Supply = (what, { name, values }): OwnedFd => {
    if (what === 'memory') return this.ram.fd.dup();
    if (what === 'socket') {
      const [mine, theirs] = socketPair('requests of the backend');
      this.channels.push(mine);
      return theirs.owner;
    }
    const index = Number((values as { value: bigint }).value & 0xffn);
    const of = name === 'SET_VRING_KICK' ? this.kicks : name === 'SET_VRING_CALL' ? this.calls : this.errors;
    return of[index]!.owner.dup();
  };

  /** How often the guest has begun anew, and lost what it had received and not looked at. */
  resets = 0;

  /** The guest's driver begins anew on all rings. */
  reset(): void {
    this.resets++;
    for (const driver of this.drivers) driver.reset();
  }

  /**
   * The guest publishes up to `want` numbered frames and kicks when the device wants it. Returns how many. `from`, `to`: the last octets of their
   * addresses.
   */
  publish(want: number, { pair = 0, kick = true, length = 60, from = 0, to = 0 } = {}): number {
    const { address } = this.drivers[2 * pair + 1]!;
    const batch = this.#batch;
    assert.ok(calls.vdrv_tx_complete(address, 256) >= 0, 'a completion that makes no sense');
    calls.vdrv_tx_room(address, batch.address, Math.min(want, 64));
    const n = calls.source_fill(this.#flows[2 * pair + 1]!, batch.address, batch.count, length);
    for (let i = 0; i < n && (from || to); i++) {
      const at = payload(batch, i);
      window.bytes[at + 5] = to;
      window.bytes[at + 11] = from;
    }
    const wanted = calls.vdrv_tx_publish(address, batch.address, n);
    assert.ok(wanted >= 0);
    if (wanted > 0 && kick) this.kicks[2 * pair + 1]!.signal();
    return n;
  }

  /** The guest posts receive buffers: all that it has. */
  refill(pair = 0): void {
    const wanted = calls.vdrv_rx_refill(this.drivers[2 * pair]!.address);
    assert.ok(wanted >= 0);
    if (wanted > 0) this.kicks[2 * pair]!.signal();
  }

  /** The guest takes what has come, and posts the buffers again. Returns the frames. */
  poll(pair = 0): number {
    const { address } = this.drivers[2 * pair]!;
    const batch = this.#batch;
    const n = calls.vdrv_rx_poll(address, batch.address, 64);
    assert.ok(n >= 0, 'a completion that makes no sense');
    calls.sink_drain(this.#flows[2 * pair]!, batch.address);
    calls.vdrv_rx_release(address, batch.address);
    this.refill(pair);
    return n;
  }

  /** Packets of a ring so far. */
  packets(index: number): number {
    return this.nic.stats().queues.find(queue => queue.index === index)?.packets ?? 0;
  }

  /** What the sink behind the NIC has seen. */
  get sink(): FlowCounters {
    return readFlow(window, this.port.lanes[0]!.state);
  }

  /** What a pair's guest has sent and received. */
  guest(pair = 0): { sent: number; received: FlowCounters } {
    return {
      sent: readFlow(window, this.#flows[2 * pair + 1]!).sequence,
      received: readFlow(window, this.#flows[2 * pair]!),
    };
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const end = await this.peer.close();
    await this.nic.close();
    this.port.close();
    for (const driver of this.drivers) driver.close();
    this.ram.close();
    for (const fd of [...this.kicks, ...this.calls, ...this.errors]) fd.close();
    for (const channel of this.channels) channel.close();
    for (const flow of this.#flows) arena.free(flow);
    arena.free(this.#batch.address);
    if (end.error && (end.error as { code?: string }).code !== 'VHOST_CLOSED') throw end.error;
  }
}
