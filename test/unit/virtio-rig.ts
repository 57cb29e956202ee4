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
import { GuestRam } from '../../src/guest/guest-ram.js';
import { EventFd } from '../../src/linux/eventfd.js';
import { countProcessFds, type OwnedFd, openFds } from '../../src/linux/fd.js';
import { openMappings } from '../../src/linux/mmap.js';
import { socketPair, type UnixSocket } from '../../src/linux/unix-socket.js';
import { VirtioNic, type VirtioNicOptions } from '../../src/nic/virtio-nic.js';
import { type FlowCounters, readFlow } from '../../src/port/flow.js';
import type { PortHandle } from '../../src/port/port.js';
import { openPort } from '../../src/port/registry.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena, window } from '../compliance/testbed.js';
import { GuestRings } from './guest-rings.js';
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

const PAGE = 4096n;

export class VirtioRig extends GuestRings {
  readonly nic: VirtioNic;
  readonly port: PortHandle;
  readonly log: string[];
  readonly ram: GuestRam;
  readonly kicks: readonly EventFd[];
  readonly calls: readonly EventFd[];
  readonly errors: readonly EventFd[];
  readonly place: Place;
  /** The backend's own channels, as far as the front end has made any. */
  readonly channels: UnixSocket[] = [];
  peer: Peer;
  #closed = false;

  private constructor(nic: VirtioNic, port: PortHandle, log: string[], options: VirtioRigOptions) {
    const { accept = F.VERSION_1, num = 64, pairs = 1, userspace, cut = 2, ramSize = 8 << 20 } = options;
    const ram = new GuestRam(window, ramSize);
    const signals = (what: string) =>
      Array.from({ length: 2 * pairs }, (_, i) => EventFd.create(`${what} ${i}`));
    const kicks = signals('kick');
    const space = {
      allocate: (size: number) => ram.allocate(size),
      free: (address: number) => ram.free(address),
      toGuest: (address: number) => ram.toGuest(address) + (options.iommu ?? 0n),
    };
    const { room, frameBuffers } = options;
    const kick = (ring: number): void => kicks[ring]!.signal();
    super({ space, features: accept, num, pairs, room, frameBuffers, kick });
    this.nic = nic;
    this.port = port;
    this.log = log;
    this.ram = ram;
    this.kicks = kicks;
    this.calls = signals('call');
    this.errors = signals('error');
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

  /** Packets of a ring so far. */
  packets(index: number): number {
    return this.nic.stats().queues.find(queue => queue.index === index)?.packets ?? 0;
  }

  /** What the sink behind the NIC has seen. */
  get sink(): FlowCounters {
    return readFlow(window, this.port.lanes[0]!.state);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const end = await this.peer.close();
    await this.nic.close();
    this.port.close();
    this.closeRings();
    this.ram.close();
    for (const fd of [...this.kicks, ...this.calls, ...this.errors]) fd.close();
    for (const channel of this.channels) channel.close();
    if (end.error && (end.error as { code?: string }).code !== 'VHOST_CLOSED') throw end.error;
  }
}
