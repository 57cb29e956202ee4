/**
 * A virtio guest in this process, with a backend that comes and goes.
 *
 * ```
 *   netdev ──► VirtioDriver ── VhostUserDevice ── socket ── serveVhostUser ── VirtioNic ──► port
 * ```
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { type Channel, socketChannel } from '../../src/control/bpfhv-proxy/index.js';
import { VhostUserDevice } from '../../src/control/vhost-user/device.js';
import { serveVhostUser } from '../../src/control/vhost-user/index.js';
import { GuestRam } from '../../src/guest/guest-ram.js';
import { VirtioDriver } from '../../src/guest/virtio/driver.js';
import type { VirtioWish } from '../../src/guest/virtio/negotiate.js';
import { virtioRamSize } from '../../src/guest/virtio/queues.js';
import type { VirtioTransport } from '../../src/guest/virtio/transport.js';
import { countProcessFds, openFds } from '../../src/linux/fd.js';
import { openMappings } from '../../src/linux/mmap.js';
import { socketPair } from '../../src/linux/unix-socket.js';
import { VirtioNic, type VirtioNicOptions } from '../../src/nic/virtio-nic.js';
import { type FlowCounters, readFlow } from '../../src/port/flow.js';
import type { PortHandle } from '../../src/port/port.js';
import { openPort } from '../../src/port/registry.js';
import { VIRTQ_FEATURES } from '../../src/ring/virtio/features.js';
import { arena, window } from '../compliance/testbed.js';

export interface GuestOptions extends Partial<VirtioWish> {
  readonly netdev?: string;
  readonly workers?: number;
  readonly spin?: boolean;
  /** In place of a device behind vhost-user. */
  readonly transport?: (ram: GuestRam) => VirtioTransport & { close(): void };
}

/** A backend: its NIC, its port, and how it ends. */
export interface RunningBackend {
  readonly nic: VirtioNic;
  readonly port: PortHandle;
  /** In good order: what was published is sent first. Returns how many frames its port got, and what a sink has seen of them. */
  end(): Promise<{ readonly sent: number; readonly flow: FlowCounters }>;
}

/** A test on guests that end with it, after `seconds` and the usual time at the latest; then nothing may be left: descriptors, mappings, pieces of the arena. */
export function guestTest(
  name: string,
  body: (start: (options?: GuestOptions) => Promise<VirtioGuest>) => Promise<void>,
  skip: string | false = false,
  seconds = 0,
): void {
  test(name, { skip, timeout: 60_000 + seconds * 1000 }, async () => {
    const held = () => ({ live: arena.live, fds: openFds(), mappings: openMappings() });
    const [before, all] = [held(), countProcessFds()];
    const guests: VirtioGuest[] = [];
    try {
      await body(async options => {
        const guest = await VirtioGuest.start(options);
        guests.push(guest);
        return guest;
      });
    } finally {
      for (const guest of guests) await guest.close();
    }
    assert.deepEqual(held(), before, 'left behind');
    assert.ok(countProcessFds() <= all, 'descriptors left behind the table');
  });
}

export class VirtioGuest {
  readonly log: string[] = [];
  readonly netdev: PortHandle;
  readonly ram: GuestRam;
  driver!: VirtioDriver;
  readonly #device: VirtioTransport & { close(): void };
  readonly #backends: RunningBackend[] = [];
  #serving: Promise<unknown> = Promise.resolve();

  private constructor(options: GuestOptions) {
    const { netdev = 'source', queuePairs = 1, bufs = 256 } = options;
    this.netdev = openPort(netdev, { window, arena }, queuePairs);
    this.ram = new GuestRam(window, virtioRamSize(queuePairs, bufs));
    this.#device =
      options.transport?.(this.ram) ?? new VhostUserDevice({ ram: this.ram, queuePairs, log: this.#note });
  }

  static async start(options: GuestOptions = {}): Promise<VirtioGuest> {
    const guest = new VirtioGuest(options);
    const { queuePairs = 1, bufs = 256, packed = false, offloads = VIRTQ_FEATURES } = options;
    guest.driver = await VirtioDriver.start({
      ...{ window, arena, netdev: guest.netdev, transport: guest.#device, log: guest.#note },
      wish: { queuePairs, bufs, packed, offloads },
      workers: options.workers ?? 1,
      spin: options.spin ?? false,
    });
    void guest.driver.setInterfaceUp(true);
    return guest;
  }

  /** Whoever is at the other end of a connection is the backend, until it hangs up. */
  serve(channel: Channel): Promise<unknown> {
    this.#serving = (this.#device as VhostUserDevice).serve(channel);
    return this.#serving;
  }

  /** Starts a backend, and waits until the driver runs on it. */
  async backend(portSpec: string, options: Partial<VirtioNicOptions> = {}): Promise<RunningBackend> {
    const lanes = this.netdev.lanes.length;
    const port = openPort(portSpec, { window, arena }, lanes);
    const limits = { queuePairs: lanes, bufs: 8192 };
    const nic = await VirtioNic.start({ window, arena, port, limits, ...options });
    const [ours, theirs] = socketPair('vhost-user');
    const hangUp = new AbortController();
    const refused: string[] = [];
    const session = serveVhostUser(socketChannel(theirs), nic, {
      signal: hangUp.signal,
      onRefused: (request, error) => refused.push(`${request}: ${error.message}`),
    });
    const served = this.serve(socketChannel(ours));
    let ended: ReturnType<RunningBackend['end']> | null = null;
    const end = async () => {
      await nic.quiesce();
      hangUp.abort();
      await Promise.all([session, served]);
      const result = { sent: port.counters().sent, flow: readFlow(window, port.lanes[0]!.state) };
      await nic.close();
      port.close();
      assert.deepEqual(refused, []);
      return result;
    };
    const backend = { nic, port, end: () => (ended ??= end()) };
    this.#backends.push(backend);
    await this.driver.whenRunning();
    return backend;
  }

  /** What a netdev of kind source has sent and swallowed. */
  sent(lane = 0): FlowCounters {
    return readFlow(window, this.netdev.lanes[lane]!.state);
  }

  swallowed(lane = 0): FlowCounters {
    return readFlow(window, this.netdev.lanes[lane]!.state + L.PORT_SIZE);
  }

  async close(): Promise<void> {
    await this.driver.close();
    for (const { end } of this.#backends) await end();
    this.#device.close();
    await this.#serving;
    this.ram.close();
    this.netdev.close();
  }

  readonly #note = (level: string, message: string): void => void this.log.push(`${level}: ${message}`);
}
