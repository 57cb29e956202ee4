/** What `guest` drives, by whichever protocol: a NIC as its driver knows it, and how it meets the other half. */
import type { KeyObject } from 'node:crypto';
import { ProxyDevice } from '../control/bpfhv-proxy/device.js';
import type { Channel } from '../control/bpfhv-proxy/index.js';
import { VhostUserDevice } from '../control/vhost-user/device.js';
import type { Blackout } from '../guest/bpfhv/commands.js';
import type { DeviceSizes } from '../guest/bpfhv/contract.js';
import { BpfhvDriver, type DriverQueueStats } from '../guest/bpfhv/driver.js';
import { bpfhvRamSize } from '../guest/bpfhv/ram-size.js';
import type { BpfhvTransport } from '../guest/bpfhv/transport.js';
import { GuestRam, HUGE_PAGE } from '../guest/guest-ram.js';
import { BpfhvPci } from '../guest/pci/bpfhv-pci.js';
import { type VirtioFunction, VirtioPci } from '../guest/pci/virtio-pci.js';
import { VirtioDriver, type VirtioDriverOptions } from '../guest/virtio/driver.js';
import { KernelDevice } from '../guest/virtio/kernel-device.js';
import { type VirtioQueueStats, virtioRamSize } from '../guest/virtio/queues.js';
import { LinuxError } from '../linux/errors.js';
import { isMacvtap } from '../linux/macvtap.js';
import { MAX_BUFS } from '../nic/limits.js';
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
  const { window, queues, bufs, mac, log, later } = options;
  const ram = new GuestRam(window, bpfhvRamSize({ queuePairs: queues, bufs }));
  later(() => ram.close());
  const device = new ProxyDevice({ ram, queuePairs: queues, bufs, mac, log });
  later(() => device.close());
  const driver = await startBpfhv(options, device);
  return guestNic(driver, ram, {
    connected: () => device.present,
    features: () => null,
    serve: channel => device.serve(channel),
    hangUp: () => device.close(),
  });
}

/** What memory a NIC on PCI is to have. */
export interface PciReserve {
  /** Descriptors of each queue that memory is reserved for; default: as many as there are. */
  readonly maxBufs: number | undefined;
  /** An IOMMU will map the memory, page by page. */
  readonly hugePages: boolean;
}

/** A bpfhv NIC on PCI, with a slot for it: to put the device in, and to see to it when it is gone, is the caller's. Queues, buffers and address are the device's. */
export async function startBpfhvPciGuest(
  options: GuestNicOptions,
  { sizes, maxBufs, hugePages }: PciReserve & { readonly sizes: DeviceSizes },
): Promise<{ nic: GuestNic; slot: BpfhvPci }> {
  const { later } = options;
  const { numRxQueues, numTxQueues, numRxBufs, numTxBufs, rxContextSize, txContextSize } = sizes;
  const size = bpfhvRamSize({
    queuePairs: Math.max(numRxQueues, numTxQueues),
    bufs: Math.max(numRxBufs, numTxBufs),
    contextSize: Math.max(rxContextSize, txContextSize),
    ...(maxBufs === undefined ? {} : { maxBufs }),
  });
  const ram = pciRam(options, size, hugePages);
  later(() => ram.close());
  const slot = new BpfhvPci({ ram, queues: numRxQueues + numTxQueues });
  later(() => slot.close());
  const driver = await startBpfhv(options, slot);
  const nic = guestNic(driver, ram, {
    connected: () => slot.present,
    features: () => null,
    serve: () => Promise.reject(new Error('devices are put into the slot')),
    hangUp: () => slot.close(),
  });
  return { nic, slot };
}

/**
 * A virtio NIC on PCI, likewise: its queues as far as the network device has lanes for them, as many descriptors as they can have.
 */
export async function startVirtioPciGuest(
  options: GuestNicOptions,
  { found, maxBufs = MAX_BUFS, hugePages }: PciReserve & { readonly found: VirtioFunction },
): Promise<{ nic: GuestNic; slot: VirtioPci }> {
  const { window, netdev, later } = options;
  const queues = Math.min(found.queuePairs, netdev.lanes.length);
  const bufs = Math.min(2 ** Math.floor(Math.log2(found.queueSize)), maxBufs);
  const ram = pciRam(options, virtioRamSize(queues, bufs), hugePages);
  later(() => ram.close());
  const slot = new VirtioPci({ window, ram, queuePairs: queues });
  later(() => slot.close());
  const mac = found.mac ?? options.mac;
  const driver = await startVirtio({ ...options, queues, bufs, mac }, slot);
  const nic = guestNic(driver, ram, {
    connected: () => slot.offer !== null,
    features: () => driver.features,
    serve: () => Promise.reject(new Error('devices are put into the slot')),
    hangUp: () => slot.close(),
  });
  return { nic, slot };
}

/** Memory that a device on PCI reaches. */
function pciRam({ window, log }: GuestNicOptions, size: number, hugePages: boolean): GuestRam {
  if (!hugePages) return new GuestRam(window, size);
  return GuestRam.preferHuge(window, size, why => {
    const advice = `sysctl vm.nr_hugepages=${size / HUGE_PAGE} reserves enough`;
    const risk = 'behind a virtual IOMMU the device may find no ring in one piece';
    log('warn', `no huge pages for ${size / 2 ** 20} MiB of memory, ${risk}: ${why}: ${advice}`);
  });
}

function startBpfhv(options: GuestNicOptions, transport: BpfhvTransport): Promise<BpfhvDriver> {
  const { netdev, log, key, ...rest } = options;
  const tap = asTap(netdev);
  return BpfhvDriver.start({
    ...{ ...rest, netdev, log, transport },
    features: options.offload,
    ...(key ? { key } : {}),
    ...(tap ? { onOverhead: mtuKeeper(tap, log) } : {}),
    onMac: address => giveAddress(netdev, address),
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
  hangUp(): void | Promise<void>;
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
        await own.hangUp();
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
