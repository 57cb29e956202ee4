/**
 * What `serve` serves, whichever protocol its hypervisor speaks: a NIC, and how to hold a conversation about it.
 *
 * ```
 *                 the VMM has the device, we its queues      we have the device
 *   bpfhv         bpfhv-proxy                                vfio-user
 *   virtio-net    vhost-user                                 vfio-user
 * ```
 */
import { MAX_REGIONS } from '../../datapath/layout.js';
import { type Channel, serveBackend } from '../control/bpfhv-proxy/index.js';
import { serveVfioUser } from '../control/vfio-user/index.js';
import { serveVhostUser } from '../control/vhost-user/index.js';
import { NicError } from '../nic/control.js';
import { MAX_BUFS, type NicLimits } from '../nic/limits.js';
import { Nic, type NicStats } from '../nic/nic.js';
import { VirtioNic } from '../nic/virtio-nic.js';
import { virtioOffloads } from '../nic/virtio-offers.js';
import type { WorkersOptions } from '../nic/workers.js';
import type { UpgradeReport, UpgradeWish } from '../observe/control/messages.js';
import { BpfhvPciDevice } from '../pci/bpfhv/device.js';
import { VirtioNetFunction } from '../pci/virtio/index.js';
import type { DeviceType } from '../ring/ring.js';
import { randomMac } from './mac.js';
import type { NicKind } from './nic-options.js';
import type { ServedPort } from './served-port.js';
import { upgradeNic } from './upgrade-nic.js';

export interface ServedNicOptions extends Omit<WorkersOptions, 'port'> {
  readonly port: ServedPort;
  readonly device: DeviceType;
  readonly limits: NicLimits;
  /** As `--offload` names them: bpfhv feature bits. */
  readonly offloads: bigint;
  readonly requireSealed: boolean;
  /** Of virtio: packed rings are offered, too. */
  readonly packed: boolean;
  readonly pci: PciOptions;
}

/** What only a PCI device has to be told. */
export interface PciOptions {
  /** 6 octets; default: a random address. */
  readonly mac: Uint8Array | undefined;
  /** Bytes from one doorbell to the next; undefined: as close as can be. */
  readonly doorbellSize: number | undefined;
  /** A virtio device that drivers of before virtio 1.0 can use, too. */
  readonly transitional: boolean;
  /** A virtio device has MSI-X. */
  readonly msix: boolean;
}

export interface Conversation {
  readonly signal: AbortSignal;
  readonly firstRequestTimeoutMs?: number;
  readonly onRefused: (request: string, error: Error) => void;
}

export interface ServedNic {
  /** For bpfhv alone: where the NIC's own kind matters. */
  readonly bpfhv: Nic | null;
  readonly device: string;
  readonly running: boolean;
  /** Feature bits that the guest has accepted. */
  readonly agreed: bigint;
  onFailure: (error: Error) => void;
  stats(): NicStats;
  dump(): string;
  /** Serves one hypervisor until it is gone; never rejects. */
  converse(
    channel: Channel,
    conversation: Conversation,
  ): Promise<{ requests: number; refused: number; error: Error | null }>;
  /** Stops the queues, with what the guest has published sent. */
  stop(): Promise<void>;
  /** `hangUp` ends the conversation with a hypervisor that comes back by itself. */
  upgrade(wish: UpgradeWish, hangUp: (() => Promise<void>) | undefined): Promise<UpgradeReport>;
  close(): Promise<void>;
}

type Start = (options: ServedNicOptions) => Promise<ServedNic>;

/** How each kind is started. */
export const START: Readonly<Record<NicKind, Start>> = {
  bpfhv: async options => {
    const nic = await startNic(options);
    return servedBpfhv(nic, {
      converse: (channel, conversation) => serveBackend(channel, nic, conversation),
      upgrade: async (wish, hangUp) => {
        if (wish.bufs !== undefined)
          throw new NicError(
            'NIC_UPGRADE_FIXED',
            "how many descriptors there are is the hypervisor's to say",
          );
        return upgradeNic(nic, options.port, wish, hangUp);
      },
    });
  },
  virtio: async options => {
    const nic = await startVirtioNic(options);
    return servedVirtio(nic, options.port, {
      converse: (channel, conversation) => serveVhostUser(channel, nic, conversation),
    });
  },
  'bpfhv-pci': async options => {
    const { port, pci, log } = options;
    const { queuePairs, bufs } = options.limits;
    // An upgrade may bring larger rings than it begins with.
    const nic = await startNic({ ...options, limits: { queuePairs, bufs: MAX_BUFS } });
    const shape = {
      queuePairs,
      bufs,
      mac: pci.mac ?? randomMac(),
      ...defined({ doorbellSize: pci.doorbellSize }),
    };
    const device = await closingOnFailure(nic, () =>
      BpfhvPciDevice.create({ nic, ...shape, ...defined({ log }) }),
    );
    return servedBpfhv(nic, {
      converse: (channel, conversation) => serveVfioUser(channel, device, conversation),
      // Who has the device itself never misses that it announces something.
      upgrade: wish => upgradeNic(nic, port, wish, undefined),
      beforeClose: () => device.close(),
    });
  },
  'virtio-pci': async options => {
    const { window, port, limits, pci, log } = options;
    const nic = await startVirtioNic(options, MAX_REGIONS);
    const { transitional, msix, mac = randomMac() } = pci;
    const shape = { window, mac, transitional, msix, queueSize: limits.bufs, ...defined({ log }) };
    const device = await closingOnFailure(nic, () => new VirtioNetFunction({ nic, ...shape }));
    return servedVirtio(nic, port, {
      converse: (channel, conversation) => serveVfioUser(channel, device, conversation),
      beforeClose: () => device.close(),
      announce: () => device.device.announce(),
    });
  },
};

function startNic({ port, offloads, pci: _, ...options }: ServedNicOptions): Promise<Nic> {
  return Nic.start({ ...options, port: port.handle, features: offloads });
}

/** `memorySlots`: regions that the guest's memory may consist of; default: what vhost-user has. */
function startVirtioNic(
  { port, offloads, pci: _, ...options }: ServedNicOptions,
  memorySlots?: number,
): Promise<VirtioNic> {
  const more = { port: port.handle, offloads: virtioOffloads(offloads), ...defined({ memorySlots }) };
  return VirtioNic.start({ ...options, ...more });
}

/** What a NIC's protocol adds to it. */
interface Spoken extends Pick<ServedNic, 'converse'> {
  readonly beforeClose?: () => void;
}

function servedBpfhv(nic: Nic, spoken: Spoken & Pick<ServedNic, 'upgrade'>): ServedNic {
  return served(nic, {
    ...spoken,
    bpfhv: nic,
    device: () => nic.device.name,
    stop: async () => {
      await nic.disable('tx');
      await nic.disable('rx');
    },
  });
}

interface VirtioSpoken extends Spoken {
  /** The network behind the port is another one, and is to learn where the guest is. */
  readonly announce?: () => Promise<void>;
}

function servedVirtio(nic: VirtioNic, port: ServedPort, { announce, ...spoken }: VirtioSpoken): ServedNic {
  return served(nic, {
    ...spoken,
    bpfhv: null,
    device: () => 'virtio',
    stop: () => nic.quiesce(),
    upgrade: async wish => {
      if (wish.device !== undefined || wish.offload !== undefined || wish.bufs !== undefined) {
        const message =
          "ring format, its size and offloads are the guest's driver's: --port and --spin can be changed";
        throw new NicError('NIC_UPGRADE_FIXED', message);
      }
      const spin = wish.spin === undefined ? {} : { spin: wish.spin };
      if (wish.port === undefined) return nic.change(spin);
      const report = await port.replace(wish.port, next => nic.change({ ...spin, port: next }));
      await announce?.();
      return report;
    },
  });
}

async function closingOnFailure<T>(nic: { close(): Promise<void> }, make: () => T | Promise<T>): Promise<T> {
  try {
    return await make();
  } catch (error) {
    await nic.close();
    throw error;
  }
}

/** Without what is undefined. */
function defined<T extends object>(options: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as never;
}

type Common = Pick<Nic, 'running' | 'agreed' | 'onFailure' | 'stats' | 'dump' | 'close'>;
type Own = Pick<ServedNic, 'bpfhv' | 'stop' | 'upgrade'> & Spoken & { readonly device: () => string };

function served(nic: Common, { device, beforeClose, ...own }: Own): ServedNic {
  return {
    ...own,
    get device() {
      return device();
    },
    get running() {
      return nic.running;
    },
    get agreed() {
      return nic.agreed;
    },
    get onFailure() {
      return nic.onFailure;
    },
    set onFailure(handler) {
      nic.onFailure = handler;
    },
    stats: () => nic.stats(),
    dump: () => nic.dump(),
    close: async () => {
      beforeClose?.();
      await nic.close();
    },
  };
}
