/** What `guest` drives, by whichever protocol: a NIC as its driver knows it, and how it meets the other half. */
import type { KeyObject } from 'node:crypto';
import { ProxyDevice } from '../control/bpfhv-proxy/device.js';
import type { Channel } from '../control/bpfhv-proxy/index.js';
import { VhostUserDevice } from '../control/vhost-user/device.js';
import type { Blackout } from '../guest/bpfhv/commands.js';
import { BUFFER_PAIR } from '../guest/bpfhv/contract.js';
import { BpfhvDriver, type DriverQueueStats } from '../guest/bpfhv/driver.js';
import { GuestRam } from '../guest/guest-ram.js';
import { VirtioDriver, type VirtioDriverOptions } from '../guest/virtio/driver.js';
import { KernelDevice } from '../guest/virtio/kernel-device.js';
import { type VirtioQueueStats, virtioRamSize } from '../guest/virtio/queues.js';
import { LinuxError } from '../linux/errors.js';
import { isMacvtap } from '../linux/macvtap.js';
import { virtioOffloads } from '../nic/virtio-offers.js';
import type { PortHandle } from '../port/port.js';
import { openPort } from '../port/registry.js';
import type { Host, Later } from './host.js';
import type { Log } from './log.js';
import { mtuKeeper } from './tap-mtu.js';
import { asTap, watchTap } from './tap-watch.js';

export interface GuestNicOptions extends Host {
  readonly netdev: PortHandle;
  readonly queues: number;
  readonly bufs: number;
  readonly workers: number;
  readonly spin: boolean;
  /** As `--offload` names them: bpfhv feature bits. */
  readonly offload: bigint;
  readonly packed: boolean;
  readonly mac: Uint8Array;
  readonly key: KeyObject | undefined;
  readonly log: Log;
  /** Told of each change of contract under a running interface. */
  readonly onBlackout: (blackout: Blackout) => void;
  /** What is taken here is given back at the end, behind `close`. */
  readonly later: Later;
}

export interface GuestNic {
  /** Its other half is there. */
  readonly connected: boolean;
  readonly running: boolean;
  /** Feature bits that were agreed on; null: nobody but the driver's programs knows. */
  readonly features: bigint | null;
  /** Pieces of guest memory that have not come back. */
  readonly live: number;
  /** Told once when no frame moves any more. */
  onFailure: (error: Error) => void;
  stats(): { readonly queues: readonly (DriverQueueStats | VirtioQueueStats)[] };
  dump(): Promise<string> | string;
  setInterfaceUp(up: boolean): Promise<void>;
  /** A backend's conversation, until it is over. */
  serve(channel: Channel): Promise<boolean>;
  /** Gives buffers back while the other half is there, then lets that one go. */
  close(): Promise<void>;
}

/** A bpfhv NIC: its backend speaks bpfhv-proxy. */
export async function startBpfhvGuest(options: GuestNicOptions): Promise<GuestNic> {
  const { window, netdev, queues, bufs, mac, log, later } = options;
  const ram = new GuestRam(window, bpfhvRamSize(queues, bufs));
  later(() => ram.close());
  const device = new ProxyDevice({ ram, queuePairs: queues, bufs, mac, log });
  later(() => device.close());
  const tap = asTap(netdev);
  const { key, ...rest } = options;
  const driver = await BpfhvDriver.start({
    ...rest,
    transport: device,
    features: options.offload,
    ...(key ? { key } : {}),
    ...(tap ? { onOverhead: mtuKeeper(tap, log) } : {}),
    onMac: address => giveAddress(netdev, address),
  });
  return guestNic(driver, ram, {
    connected: () => device.present,
    features: () => null,
    serve: channel => device.serve(channel),
    hangUp: () => device.close(),
  });
}

/** A virtio NIC whose backend speaks vhost-user. */
export async function startVhostUserGuest(options: GuestNicOptions): Promise<GuestNic> {
  const { window, queues, bufs, log, later } = options;
  const ram = new GuestRam(window, virtioRamSize(queues, bufs));
  later(() => ram.close());
  const device = new VhostUserDevice({ ram, queuePairs: queues, log });
  later(() => device.close());
  const driver = await startVirtio(options, device);
  return guestNic(driver, ram, {
    connected: () => device.offer !== null,
    features: () => driver.features,
    serve: channel => device.serve(channel),
    hangUp: () => device.close(),
  });
}

/** A virtio NIC that the kernel's vhost-net works on; `backend` is the interface behind it: IFNAME[,netns=NAME] of a TAP, or a macvtap's name. */
export async function startVhostKernelGuest(options: GuestNicOptions, backend: string): Promise<GuestNic> {
  const { window, queues, bufs, later } = options;
  const port = openPort(backendSpec(backend), options, queues);
  later(() => port.close());
  const tap = asTap(port)!;
  const ram = new GuestRam(window, virtioRamSize(queues, bufs));
  later(() => ram.close());
  const device = new KernelDevice({ window, ram, backend: tap });
  later(() => device.close());
  const driver = await startVirtio(options, device);
  const nic = guestNic(driver, ram, {
    connected: () => true,
    features: () => driver.features,
    serve: () => Promise.reject(new Error('the kernel is the backend')),
    hangUp: () => monitor.close(),
  });
  const monitor = watchTap(
    tap,
    () => {},
    error => nic.onFailure(error),
  );
  return nic;
}

async function startVirtio(
  options: GuestNicOptions,
  transport: VirtioDriverOptions['transport'],
): Promise<VirtioDriver> {
  const { queues, bufs, packed, offload, netdev, mac } = options;
  const wish = { queuePairs: queues, bufs, packed, offloads: virtioOffloads(offload) };
  const driver = await VirtioDriver.start({ ...options, transport, wish });
  giveAddress(netdev, mac); // nobody but us knows it
  return driver;
}

type Driver = Pick<GuestNic, 'running' | 'onFailure' | 'stats' | 'dump' | 'setInterfaceUp' | 'close'>;
interface Own {
  connected(): boolean;
  features(): bigint | null;
  serve(channel: Channel): Promise<boolean>;
  hangUp(): void;
}

function guestNic(driver: Driver, ram: GuestRam, own: Own): GuestNic {
  return {
    serve: own.serve,
    stats: () => driver.stats(),
    dump: () => driver.dump(),
    setInterfaceUp: up => driver.setInterfaceUp(up),
    async close() {
      try {
        await driver.close();
      } finally {
        own.hangUp();
      }
    },
    get connected() {
      return own.connected();
    },
    get running() {
      return driver.running;
    },
    get features() {
      return own.features();
    },
    get live() {
      return ram.live;
    },
    get onFailure() {
      return driver.onFailure;
    },
    set onFailure(handler) {
      driver.onFailure = handler;
    },
  };
}

/** An interface forgets its neighbours when its address is set, even to the same one. */
function giveAddress(netdev: PortHandle, address: Uint8Array): void {
  const tap = asTap(netdev);
  if (tap && !address.every((octet, i) => octet === tap.tap.mac[i])) tap.tap.mac = address;
}

/** The port that is behind vhost-net: a TAP, unless there is a macvtap of that name. */
function backendSpec(backend: string): string {
  try {
    if (isMacvtap(backend)) return `macvtap:${backend}`;
  } catch (error) {
    if (!(error instanceof LinuxError)) throw error; // there is no such interface yet, or it has options
  }
  return `tap:${backend}`;
}

/** Guest memory for that many queues, with contexts and buffers, twice: an upgrade has old and new ones at once. */
function bpfhvRamSize(queuePairs: number, bufs: number): number {
  const perPair = bufs * (BUFFER_PAIR + 2 * 64) + 2 * 65536;
  return Math.ceil((2 * queuePairs * perPair) / 0x20_0000) * 0x20_0000 + 0x20_0000;
}
