/**
 * A NIC with its worker, and a guest whose steps a test makes itself: no control protocol in between.
 *
 * ```
 *   test ── publish, poll ──► rings in a memfd ◄── worker of the Nic ──► port
 *        ── kick (eventfd) ─────────────────────────►
 *        ◄──────────────────────────── irq (eventfd)
 * ```
 */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { EventFd } from '../../src/linux/eventfd.js';
import { countProcessFds, openFds } from '../../src/linux/fd.js';
import { openMappings } from '../../src/linux/mmap.js';
import type { MemoryRegionSpec } from '../../src/nic/control.js';
import { Nic, type NicOptions } from '../../src/nic/nic.js';
import { type FlowCounters, readFlow } from '../../src/port/flow.js';
import type { PortHandle } from '../../src/port/port.js';
import { openPort } from '../../src/port/registry.js';
import { deviceType } from '../../src/ring/registry.js';
import { arena, Testbed, window } from '../compliance/testbed.js';

export const RX = 0;
export const TX = 1;

export interface RigOptions extends Partial<NicOptions> {
  readonly portSpec?: string;
  readonly num?: number;
}

/** A test on rigs that end with it, whatever happens; then nothing may be left: descriptors, mappings, pieces of the arena. */
export function nicTest(
  name: string,
  body: (start: (options?: RigOptions) => Promise<NicRig>, t: TestContext) => Promise<void>,
): void {
  test(name, { timeout: 120_000 }, async t => {
    const held = () => ({ live: arena.live, fds: openFds(), mappings: openMappings() });
    const before = held();
    const all = countProcessFds();
    const rigs: NicRig[] = [];
    try {
      await body(async options => {
        const rig = await NicRig.start(options);
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

export class NicRig {
  readonly nic: Nic;
  readonly bed: Testbed;
  readonly port: PortHandle;
  readonly log: string[];
  readonly kicks = [RX, TX].map(queue => EventFd.create(`kick ${queue}`));
  readonly irqs = [RX, TX].map(queue => EventFd.create(`irq ${queue}`));
  readonly #flows = [arena.allocate(L.PORT_SIZE), arena.allocate(L.PORT_SIZE)] as const;

  #closed = false;

  private constructor(nic: Nic, bed: Testbed, port: PortHandle, log: string[]) {
    this.nic = nic;
    this.bed = bed;
    this.port = port;
    this.log = log;
  }

  static async start({ portSpec = 'sink', num = 64, ...options }: RigOptions = {}): Promise<NicRig> {
    const device = options.device ?? deviceType('sring')!;
    const log: string[] = [];
    const port = openPort(portSpec, { window, arena });
    const nic = await Nic.start({
      ...{ window, arena, device, port },
      log: (level, message) => log.push(`${level}: ${message}`),
      ...options,
    });
    return new NicRig(nic, new Testbed({ device: device.name, num }), port, log);
  }

  /**
   * The guest's memory as a VMM would send it, with descriptors to give away: what lies below the testbed's hole in `cut` regions, one behind
   * the other, then what lies above it.
   */
  regions(cut = 1): MemoryRegionSpec[] {
    const { ram, forbidden } = this.bed;
    const [first, hole, last] = forbidden.map(gpa => Number(gpa - ram.guestPhysicalAddress)) as [
      number,
      number,
      number,
    ];
    const pages = (hole - first) / 4096 - 1;
    const seams = Array.from(
      { length: cut + 1 },
      (_, i) => first + 4096 * (1 + Math.floor((i * pages) / cut)),
    );
    const spans = seams.slice(1).map((to, i) => [seams[i]!, to]);
    return [...spans, [hole + 4096, last]].map(([from, to]) => ({
      guestPhysicalAddress: ram.guestPhysicalAddress + BigInt(from!),
      size: BigInt(to! - from!),
      hypervisorVirtualAddress: 0n,
      mmapOffset: BigInt(from!),
      fd: ram.fd.dup(),
    }));
  }

  context(queue: number): bigint {
    return this.bed.ram.toGuest(this.bed[queue === RX ? 'rx' : 'tx'].context);
  }

  /** What has to be done before the first enable, one request each. */
  readonly steps: readonly (() => Promise<unknown> | unknown)[] = [
    () => this.nic.setMemoryTable(this.regions()),
    () => this.nic.setFeatures(0n),
    () => this.parameters(),
    () => this.nic.setQueueKick(RX, this.kicks[RX]!.owner.dup()),
    () => this.nic.setQueueKick(TX, this.kicks[TX]!.owner.dup()),
    () => this.nic.setQueueIrq(RX, this.irqs[RX]!.owner.dup()),
    () => this.nic.setQueueIrq(TX, this.irqs[TX]!.owner.dup()),
    () => this.nic.setUpgrade(EventFd.create('upgrade').owner),
    () => this.nic.setQueueContext(RX, this.context(RX)),
    () => this.nic.setQueueContext(TX, this.context(TX)),
  ];

  parameters(pairs = 1): { rxContextSize: number; txContextSize: number } {
    return this.nic.setParameters({
      ...{ numRxQueues: pairs, numTxQueues: pairs, numRxBufs: this.bed.num, numTxBufs: this.bed.num },
    });
  }

  async prepare(): Promise<void> {
    for (const step of this.steps) await step();
  }

  async enable(): Promise<void> {
    await this.nic.enable('rx');
    await this.nic.enable('tx');
  }

  async disable(): Promise<void> {
    await this.nic.disable('rx');
    await this.nic.disable('tx');
  }

  /** The guest publishes up to `want` numbered frames and kicks when the device wants it. Returns how many. */
  publish(want: number, kick = true): number {
    const { datapath, guestBatch, tx } = this.bed;
    const { calls } = datapath;
    assert.ok(calls.driver_tx_complete(tx.driver, 128) >= 0);
    calls.driver_tx_room(tx.driver, guestBatch.address, want);
    const n = calls.source_fill(this.#flows[TX], guestBatch.address, guestBatch.count, 60);
    const wanted = calls.driver_tx_publish(tx.driver, guestBatch.address, n);
    assert.ok(wanted >= 0);
    if (wanted > 0 && kick) this.kicks[TX]!.signal();
    return n;
  }

  /** The guest takes what has come and lends the buffers again. Returns the frames. */
  poll(): number {
    const { datapath, guestBatch, rx } = this.bed;
    const { calls } = datapath;
    const n = calls.driver_rx_poll(rx.driver, guestBatch.address, 64);
    assert.ok(n >= 0);
    calls.sink_drain(this.#flows[RX], guestBatch.address);
    calls.driver_rx_release(rx.driver, guestBatch.address);
    if (calls.driver_rx_refill(rx.driver) > 0) this.kicks[RX]!.signal();
    return n;
  }

  /** The interface goes down: whatever is posted comes back. */
  reclaim(sides = this.bed.sides): void {
    const { calls } = this.bed.datapath;
    for (const side of sides) {
      const { device } = this.bed.audit(side);
      assert.equal(calls.driver_reclaim(side.driver), device);
      assert.equal(calls.driver_seize(side.driver, this.bed.num), 0);
      calls.driver_reset(side.driver, this.bed.num);
    }
  }

  /** Packets of a queue so far. */
  packets(queue: number): number {
    return this.nic.stats().queues[queue]!.packets;
  }

  /** What the sink behind the NIC has seen. */
  get sink(): FlowCounters {
    return readFlow(window, this.port.lanes[0]!.state);
  }

  /** What the guest has sent and received. */
  get guest(): { sent: number; received: FlowCounters } {
    return {
      sent: readFlow(window, this.#flows[TX]).sequence,
      received: readFlow(window, this.#flows[RX]),
    };
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.nic.close();
    this.port.close();
    this.bed.checkCanaries();
    this.bed.close();
    for (const eventfd of [...this.kicks, ...this.irqs]) eventfd.close();
    for (const flow of this.#flows) arena.free(flow);
  }
}
