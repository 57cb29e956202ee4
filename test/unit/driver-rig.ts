/**
 * A guest and the backends that come and go, in one process: the driver with its worker, the device that it sees, NICs with workers of their own.
 *
 * ```
 *   netdev ── BpfhvDriver ── ProxyDevice ── socket pair ── serveBackend ── Nic ── port
 *              └───────────── rings and buffers in a memfd ──────────────────┘
 * ```
 */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { ProxyDevice } from '../../src/control/bpfhv-proxy/device.js';
import { type Channel, serveBackend, socketChannel } from '../../src/control/bpfhv-proxy/index.js';
import { BpfhvDriver } from '../../src/guest/bpfhv/driver.js';
import { GuestRam } from '../../src/guest/guest-ram.js';
import { openFds } from '../../src/linux/fd.js';
import { openMappings } from '../../src/linux/mmap.js';
import { socketPair } from '../../src/linux/unix-socket.js';
import type { NicControl } from '../../src/nic/control.js';
import { Nic } from '../../src/nic/nic.js';
import { type FlowCounters, portFlow, portSwallowed } from '../../src/port/flow.js';
import type { PortHandle } from '../../src/port/port.js';
import { openPort } from '../../src/port/registry.js';
import { deviceType } from '../../src/ring/registry.js';
import { arena, window } from '../compliance/testbed.js';

export interface GuestOptions {
  readonly netdev: string | PortHandle;
  readonly bufs?: number;
  readonly queuePairs?: number;
  readonly spin?: boolean;
  /** Offloads to accept; default: all. */
  readonly features?: bigint;
  /** Of the netdev, at most. */
  readonly lanes?: number;
  readonly workers?: number;
}

export interface BackendOptions {
  readonly device?: string;
  readonly spin?: boolean;
  /** Of the port, at most. */
  readonly lanes?: number;
  readonly workers?: number;
}

/** A NIC and what is behind it. */
export class Backend {
  readonly nic: Nic;
  readonly port: PortHandle;

  private constructor(nic: Nic, port: PortHandle) {
    this.nic = nic;
    this.port = port;
  }

  static async start(
    spec: string | PortHandle,
    { device = 'sring', lanes = 1, ...options }: BackendOptions = {},
  ): Promise<Backend> {
    const port = typeof spec === 'string' ? openPort(spec, { window, arena }, lanes) : spec;
    const nic = await Nic.start({ window, arena, device: deviceType(device)!, port, ...options });
    return new Backend(nic, port);
  }

  get flow(): FlowCounters {
    return portFlow(window, this.port)!;
  }

  /** What has come out of the NIC. */
  get swallowed(): FlowCounters {
    return portSwallowed(window, this.port)!;
  }

  async close(): Promise<void> {
    await this.nic.close();
    this.port.close();
  }
}

/** A backend's connection to the guest. */
export interface Session {
  /** The backend hangs up; resolves when both ends have noticed. */
  end(): Promise<void>;
  readonly over: Promise<unknown>;
}

export class Guest {
  readonly netdev: PortHandle;
  readonly ram: GuestRam;
  readonly device: ProxyDevice;
  readonly driver: BpfhvDriver;
  readonly log: string[];
  /** The network device's carrier, every change of it. */
  readonly carrier: boolean[];
  readonly #sessions: Session[] = [];

  private constructor(parts: Pick<Guest, 'netdev' | 'ram' | 'device' | 'driver' | 'log' | 'carrier'>) {
    this.netdev = parts.netdev;
    this.ram = parts.ram;
    this.device = parts.device;
    this.driver = parts.driver;
    this.log = parts.log;
    this.carrier = parts.carrier;
  }

  static async start({
    netdev: spec,
    bufs = 64,
    queuePairs = 1,
    lanes = 1,
    ...options
  }: GuestOptions): Promise<Guest> {
    const log: string[] = [];
    const carrier: boolean[] = [];
    const setCarrier = (up: boolean) => {
      if (carrier.at(-1) !== up) carrier.push(up);
    };
    const note = (level: string, message: string) => log.push(`${level}: ${message}`);
    const port = typeof spec === 'string' ? openPort(spec, { window, arena }, lanes) : spec;
    const netdev = { ...port, setCarrier };
    const ram = new GuestRam(window, 8 << 20);
    const mac = Uint8Array.of(2, 0, 0, 0, 0, 1);
    const device = new ProxyDevice({ ram, queuePairs, bufs, mac, log: note });
    const driver = await BpfhvDriver.start({
      ...{ window, arena, transport: device, netdev, log: note },
      ...options,
    });
    return new Guest({ netdev, ram, device, driver, log, carrier });
  }

  get flow(): FlowCounters {
    return portFlow(window, this.netdev)!;
  }

  /** What the driver has handed over. */
  get swallowed(): FlowCounters {
    return portSwallowed(window, this.netdev)!;
  }

  /** Sums over the driver's queues of one direction. */
  packets(direction: 'rx' | 'tx'): number {
    return this.driver
      .stats()
      .queues.filter(queue => queue.direction === direction)
      .reduce((sum, { packets }) => sum + packets, 0);
  }

  /** A backend connects. `tap`: what the two ends have in place of their channels. */
  connect(
    nic: NicControl,
    tap: (end: 'guest' | 'backend', channel: Channel) => Channel = (_, c) => c,
  ): Session {
    const [ours, theirs] = socketPair('bpfhv-proxy');
    const hangUp = new AbortController();
    const over = Promise.all([
      this.device.serve(tap('guest', socketChannel(ours))),
      serveBackend(tap('backend', socketChannel(theirs)), nic, { signal: hangUp.signal }),
    ]);
    const session = {
      over,
      async end() {
        hangUp.abort();
        await over;
      },
    };
    this.#sessions.push(session);
    return session;
  }

  /** Lines of one level, of the log so far or from a line on. */
  lines(level: 'error' | 'warn' | 'info', from = 0): string[] {
    return this.log.slice(from).filter(line => line.startsWith(level));
  }

  async close(): Promise<void> {
    await this.driver.close();
    for (const session of this.#sessions) await session.end();
    this.device.close();
    assert.equal(this.ram.live, 0, 'guest memory that did not come back');
    this.ram.close();
    this.netdev.close();
  }
}

/** A test whose guests and backends end with it, whatever happens; then nothing may be left. */
export function guestTest(
  name: string,
  body: (
    make: {
      guest(options: GuestOptions): Promise<Guest>;
      backend(spec: string | PortHandle, options?: BackendOptions): Promise<Backend>;
    },
    t: TestContext,
  ) => Promise<void>,
): void {
  test(name, { timeout: 120_000 }, async t => {
    const held = () => ({ live: arena.live, fds: openFds(), mappings: openMappings() });
    const before = held();
    const guests: Guest[] = [];
    const backends: Backend[] = [];
    try {
      await body(
        {
          guest: async options => {
            const guest = await Guest.start(options);
            guests.push(guest);
            return guest;
          },
          backend: async (spec, options) => {
            const backend = await Backend.start(spec, options);
            backends.push(backend);
            return backend;
          },
        },
        t,
      );
    } finally {
      for (const guest of guests) await guest.close();
      for (const backend of backends) await backend.close();
    }
    assert.deepEqual(held(), before, 'left behind');
  });
}
