/**
 * Two machines' worth of kernel network: two namespaces, and in each an interface that a process of ours drives.
 *
 * ```
 *   ┌ namespace "guest" ─────────┐                            ┌ namespace "host" ──────────┐
 *   │ sockets ── 10.0.0.2  pn-g ─┼─ guest ══ rings ══ backend ┼─ pn-h  10.0.0.1 ── sockets │
 *   └────────────────────────────┘                            └────────────────────────────┘
 * ```
 * The namespaces have no names. Descriptors of this process, and of sockets and TAPs in them, are all that keeps them alive.
 */
import { LinuxError } from '../linux/errors.js';
import type { OwnedFd } from '../linux/fd.js';
import { changeLink, type LinkInfo, linkInfo } from '../linux/link.js';
import { monitorLink } from '../linux/link-monitor.js';
import { createNetns } from '../linux/netns.js';
import { tcpCounters } from '../linux/netstat.js';
import { addAddress } from '../linux/route.js';
import { silenceIpv6, writeSysctl } from '../linux/sysctl.js';
import { openTap } from '../linux/tun.js';
import { DemoError } from './errors.js';

/** Longer than the handshake's own limits, so that those explain what went wrong. */
const CARRIER_LIMIT_MS = 15_000;
/** Frames that wait in an interface for the NIC: more than the traffic has on its way, so that the kernel has nothing to drop meanwhile. */
const QUEUE_LENGTH = 16_384;

/** What a receiver says of segments that have come before: TCP's counters, <linux/snmp.h>. */
const CAME_TWICE = ['TCPDSACKOldSent', 'TCPDSACKOfoSent'];
/** Segments that have come to a receiver without room for them. */
const DROPPED_AT_SOCKET = ['TCPBacklogDrop', 'TCPRcvQDrop', 'TCPZeroWindowDrop', 'RcvPruned', 'OfoPruned'];

/** What the kernel itself had to do with segments to one machine, of all its connections. */
export interface KernelShare {
  /** Segments that came although they had come before. */
  readonly cameTwice: number;
  /** Frames and segments that it dropped for want of room: in the queues of either interface, in the receiver's socket. */
  readonly dropped: number;
}

/** One of the two machines. */
export interface Machine {
  readonly name: 'guest' | 'host';
  readonly interfaceName: string;
  readonly ip: string;
  readonly netns: OwnedFd;
  /** The port specification of its interface, for any process of this user. */
  readonly port: string;
}

export class Network {
  readonly guest: Machine;
  readonly host: Machine;

  private constructor(guest: Machine, host: Machine) {
    this.guest = guest;
    this.host = host;
  }

  /** Makes the namespaces; the interfaces come with the processes that open them. Throws LinuxError: EPERM, ENOENT, EACCES. */
  static create(): Network {
    const guest = machine('guest', 'pn-g', '10.0.0.2');
    try {
      tryTap(guest.netns);
      return new Network(guest, machine('host', 'pn-h', '10.0.0.1'));
    } catch (error) {
      guest.netns.close();
      throw error;
    }
  }

  /** Gives both interfaces their addresses, switches them on, and waits until the guest's driver has plugged the cable in. */
  async bringUp(signal: AbortSignal): Promise<void> {
    for (const { netns, interfaceName, ip } of [this.host, this.guest]) {
      await until(netns, interfaceName, link => link !== null, signal);
      addAddress(interfaceName, `${ip}/24`, netns);
      changeLink(interfaceName, { up: true, queueLength: QUEUE_LENGTH }, netns);
    }
    const { netns, interfaceName } = this.guest;
    await until(netns, interfaceName, link => link?.operationalState === 'up', signal);
  }

  /** Frames that the kernel itself dropped at the two interfaces since they were made: their queues were full. */
  dropped(): number {
    const drops = [this.guest, this.host].map(
      ({ interfaceName, netns }) => linkInfo(interfaceName, netns).stats,
    );
    return drops.reduce((sum, { rxDropped, txDropped }) => sum + rxDropped + txDropped, 0);
  }

  /** Begins to count for TCP towards a machine; what is returned tells the counts since then. */
  watchTcp(to: Machine['name']): () => KernelShare {
    const read = (): KernelShare => {
      const counters = tcpCounters(this[to].netns);
      const sum = (names: readonly string[]) => names.reduce((n, name) => n + (counters.get(name) ?? 0), 0);
      return { cameTwice: sum(CAME_TWICE), dropped: sum(DROPPED_AT_SOCKET) + this.dropped() };
    };
    const before = read();
    return () => {
      const { cameTwice, dropped } = read();
      return { cameTwice: cameTwice - before.cameTwice, dropped: dropped - before.dropped };
    };
  }

  close(): void {
    this.guest.netns.close();
    this.host.netns.close();
  }
}

function machine(name: Machine['name'], interfaceName: string, ip: string): Machine {
  const netns = createNetns(`${name}'s namespace`);
  const port = `tap:${interfaceName},netns=/proc/${process.pid}/fd/${netns.fd}`;
  settle(() => silenceIpv6(netns));
  // BBR takes processors that are busy elsewhere for a slow network, and stays slow.
  settle(() => writeSysctl('net/ipv4/tcp_congestion_control', 'cubic', netns));
  return { name, interfaceName, ip, netns, port };
}

/** Changes a setting where that can be: /proc/sys may be read-only, the kernel may lack the feature. The demo works without. */
function settle(change: () => void): void {
  try {
    change();
  } catch (error) {
    if (!(error instanceof LinuxError)) throw error;
  }
}

/** Whoever may make namespaces may still not be allowed to open /dev/net/tun. */
function tryTap(netns: OwnedFd): void {
  openTap({ name: 'trial', netns }).close();
}

/** Waits for a state of an interface. Throws DemoError when it does not come, and the signal's reason when that aborts. */
async function until(
  netns: OwnedFd,
  name: string,
  reached: (link: LinkInfo | null) => boolean,
  signal: AbortSignal,
): Promise<void> {
  signal.throwIfAborted();
  let settle: (error?: Error) => void = () => {};
  const settled = new Promise<void>((resolve, reject) => {
    settle = error => (error ? reject(error) : resolve());
  });
  const abort = () => settle(signal.reason);
  const late = () =>
    settle(new DemoError(`interface ${name} was not ready after ${CARRIER_LIMIT_MS / 1000} s`));
  signal.addEventListener('abort', abort);
  const timer = setTimeout(late, CARRIER_LIMIT_MS);
  const monitor = monitorLink(name, netns, link => reached(link) && settle());
  try {
    await settled;
  } finally {
    monitor.close();
    clearTimeout(timer);
    signal.removeEventListener('abort', abort);
  }
}
