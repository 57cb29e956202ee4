/** What `serve` serves, whichever protocol its hypervisor speaks: a NIC, and how to hold a conversation about it. */
import { type Channel, serveBackend } from '../control/bpfhv-proxy/index.js';
import { serveVhostUser } from '../control/vhost-user/index.js';
import { NicError } from '../nic/control.js';
import type { NicLimits } from '../nic/limits.js';
import { Nic, type NicStats } from '../nic/nic.js';
import { VirtioNic } from '../nic/virtio-nic.js';
import { virtioOffloads } from '../nic/virtio-offers.js';
import type { WorkersOptions } from '../nic/workers.js';
import type { UpgradeReport, UpgradeWish } from '../observe/control/messages.js';
import type { DeviceType } from '../ring/ring.js';
import type { ServedPort } from './served-port.js';
import { upgradeNic } from './upgrade-nic.js';

export interface ServedNicOptions extends Omit<WorkersOptions, 'port'> {
  readonly port: ServedPort;
  readonly device: DeviceType;
  readonly limits: NicLimits;
  /** As `--offload` names them: bpfhv feature bits. */
  readonly offloads: bigint;
  readonly requireSealed: boolean;
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

/** A NIC of bpfhv's, and its protocol. */
export async function startBpfhv({ port, offloads, ...options }: ServedNicOptions): Promise<ServedNic> {
  const nic = await Nic.start({ ...options, port: port.handle, features: offloads });
  return served(nic, {
    bpfhv: nic,
    device: () => nic.device.name,
    converse: (channel, conversation) => serveBackend(channel, nic, conversation),
    stop: async () => {
      await nic.disable('tx');
      await nic.disable('rx');
    },
    upgrade: (wish, hangUp) => upgradeNic(nic, port, wish, hangUp),
  });
}

/** A virtio NIC behind vhost-user. */
export async function startVirtio({ port, offloads, ...options }: ServedNicOptions): Promise<ServedNic> {
  const nic = await VirtioNic.start({ ...options, port: port.handle, offloads: virtioOffloads(offloads) });
  return served(nic, {
    bpfhv: null,
    device: () => 'virtio',
    converse: (channel, conversation) => serveVhostUser(channel, nic, conversation),
    stop: () => nic.quiesce(),
    upgrade: async wish => {
      if (wish.device !== undefined || wish.offload !== undefined) {
        const message = "ring format and offloads are the guest's driver's: --port and --spin can be changed";
        throw new NicError('NIC_UPGRADE_FIXED', message);
      }
      const spin = wish.spin === undefined ? {} : { spin: wish.spin };
      if (wish.port === undefined) return nic.change(spin);
      return port.replace(wish.port, next => nic.change({ ...spin, port: next }));
    },
  });
}

type Common = Pick<Nic, 'running' | 'agreed' | 'onFailure' | 'stats' | 'dump' | 'close'>;
type Own = Pick<ServedNic, 'bpfhv' | 'converse' | 'stop' | 'upgrade'> & { readonly device: () => string };

function served(nic: Common, { device, ...own }: Own): ServedNic {
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
    close: () => nic.close(),
  };
}
