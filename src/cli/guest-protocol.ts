/** How `guest` gets at a NIC: by which protocol, with what it needs before, and how it meets the other half. */
import { KernelPci } from '../guest/pci/kernel-pci.js';
import {
  type GuestNic,
  type GuestNicOptions,
  startBpfhvGuest,
  startVhostKernelGuest,
  startVhostUserGuest,
} from './guest-nic.js';
import { type Later, UsageError } from './host.js';
import type { Log } from './log.js';
import { probePci } from './pci-device.js';
import { meetPeers, whenAborted } from './peers.js';
import { VfioUserLink } from './vfio-user-link.js';

export interface ProtocolOptions {
  readonly bpfhvProxy?: string;
  readonly vhostUser?: string;
  readonly vhostKernel?: true;
  readonly tapBackend?: string;
  readonly pci?: string;
  readonly vfioUser?: string;
  readonly connect?: true;
  readonly listen?: true;
  readonly maxBufs?: number;
  readonly packed?: true;
  readonly keyFile?: string;
  readonly workers: number;
}

export interface Protocol {
  readonly start: (nic: GuestNicOptions) => Promise<GuestNic>;
  /** Queue pairs, where they are not ours to choose. */
  readonly queues?: number;
  /** Meets whoever has the other half, one after the other, until it is time to hang up. */
  readonly meet: (nic: GuestNic) => Promise<void>;
}

export interface Opening {
  readonly log: Log;
  /** What is taken is given back at the end. */
  readonly later: Later;
  /** Whoever has the other half may go: aborted when the NIC has let go of it. */
  readonly hangUp: AbortController;
  /** Nobody waits any more. */
  readonly stop: AbortSignal;
}

/** Gets what is needed before there can be a NIC. Rejects with PciError, DriverError for a device that can't be had; null: it was stopped before. */
export type Open = (opening: Opening) => Protocol | Promise<Protocol | null>;

/** Options that don't go with a device on PCI, which has a backend, queues, buffers and an address already. */
export const NOT_ON_PCI: readonly string[] = [
  ...['bpfhvProxy', 'vhostUser', 'vhostKernel', 'tapBackend', 'connect', 'listen'],
  ...['queues', 'bufs', 'mac'],
];

/** The protocol that the options ask for. Throws UsageError. */
export function protocolOf(options: ProtocolOptions): { readonly place: string; readonly open: Open } {
  const { bpfhvProxy, vhostUser, vhostKernel = false, tapBackend, pci, vfioUser } = options;
  const { maxBufs, packed, keyFile, workers } = options;
  if ((tapBackend !== undefined) !== vhostKernel)
    throw new UsageError('--vhost-kernel and --tap-backend IFNAME go together');
  const onPci = pci ?? vfioUser;
  if (keyFile !== undefined && (vhostUser ?? tapBackend) !== undefined)
    throw new UsageError('--key-file is for bpfhv: virtio has no programs that could seal');
  if (keyFile !== undefined && workers > 1)
    throw new UsageError('--key-file needs one worker, which alone can know what packets have come before');
  if (maxBufs !== undefined && onPci === undefined)
    throw new UsageError('--max-bufs is for --pci and --vfio-user: elsewhere no upgrade changes --bufs');
  if (bpfhvProxy !== undefined) {
    if (packed)
      throw new UsageError('--packed is for virtio: over --bpfhv-proxy the ring format is the backend’s');
    const listens = options.listen ?? !options.connect;
    return { place: bpfhvProxy, open: viaSocket(startBpfhvGuest, bpfhvProxy, listens) };
  }
  if (vhostUser !== undefined) {
    return { place: vhostUser, open: viaSocket(startVhostUserGuest, vhostUser, options.listen ?? false) };
  }
  if (tapBackend !== undefined) {
    const start = (nic: GuestNicOptions) => startVhostKernelGuest(nic, tapBackend);
    return { place: '-', open: ({ hangUp }) => ({ start, meet: () => aborted(hangUp.signal) }) };
  }
  if (pci !== undefined) return { place: pci, open: opening => openPci(opening, pci, maxBufs) };
  if (vfioUser !== undefined) {
    return { place: vfioUser, open: opening => openVfioUser(opening, vfioUser, maxBufs) };
  }
  const ways =
    '--bpfhv-proxy SOCKET, --vhost-user SOCKET, --vfio-user SOCKET, --vhost-kernel or --pci ADDRESS';
  throw new UsageError(`write ${ways}`);
}

function viaSocket(start: Protocol['start'], path: string, listens: boolean): Open {
  return ({ log, hangUp: { signal } }) => ({
    start,
    meet: nic =>
      meetPeers({
        ...{ path, listens, signal, log, peer: 'a backend' },
        session: channel => nic.serve(channel),
      }),
  });
}

/** A function of this machine. Once it is gone, all is over. */
async function openPci(
  { later, hangUp }: Opening,
  address: string,
  maxBufs: number | undefined,
): Promise<Protocol> {
  const access = await KernelPci.open(address);
  later(() => access.close());
  const device = await probePci(access);
  return {
    queues: device.queues,
    start: async options => {
      const { nic, slot } = await device.start(options, { maxBufs, hugePages: true });
      slot.onGone = reason => nic.onFailure(reason);
      await slot.plug(access, device);
      return nic;
    },
    meet: () => aborted(hangUp.signal),
  };
}

/** A function behind a socket, whose server may come later, go, and come again. */
async function openVfioUser(
  { log, later, hangUp, stop }: Opening,
  path: string,
  maxBufs: number | undefined,
): Promise<Protocol | null> {
  const link = new VfioUserLink(log);
  const meeting = meetPeers({
    ...{ path, listens: false, signal: hangUp.signal, log, peer: 'a device' },
    timings: { maxUselessDelayMs: 5000 },
    session: channel => link.serve(channel),
  });
  later(async () => {
    hangUp.abort();
    link.end();
    await meeting.catch(() => {}); // who waits for it hears of it
  });
  const device = await Promise.race([link.first, meeting, aborted(stop)]);
  if (!device) return null;
  return {
    queues: device.queues,
    start: async options => {
      const { nic, slot } = await device.start(options, { maxBufs, hugePages: false });
      link.use(slot);
      whenAborted(hangUp.signal, () => link.end());
      return nic;
    },
    meet: () => meeting,
  };
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise(resolve => whenAborted(signal, () => resolve()));
}
