/**
 * Real sockets in two namespaces over three kinds of link, in turn and in the same run, so that the machine's moods hit all of them alike:
 *
 *   sring …   TAP ── guest ══ ring ══ backend ── TAP     what polynic is for
 *   copier    TAP ── read, write ── TAP                  what two TAPs cost without any NIC between them
 *   veth      the kernel's own cable                     what the sockets can do at most
 */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { type Machine, Network } from '../demo/network.js';
import { NicPair } from '../demo/nic-pair.js';
import { TrafficEnds } from '../demo/traffic/ends.js';
import { createVeth } from '../linux/link.js';
import { openTap } from '../linux/tun.js';
import type { CopierStart } from './copier.js';
import { BenchError } from './errors.js';
import { type BenchResult, median, result } from './result.js';

const ROUNDS = 3;
const PHASE_MS = 1200;
const TCP_PORT = 5001;
const UDP_PORT = 5002;
/** Without offloads: what the others are compared with, too. */
const SIMPLEST = 'sring';

interface Link {
  close(): Promise<void>;
}

/** How each kind of link is made between the namespaces of a network. */
const LINKS: Readonly<Record<string, (network: Network) => Promise<Link>>> = {
  copier: joinByCopier,
  veth: async ({ guest, host }) => {
    createVeth(guest.interfaceName, { name: host.interfaceName, netns: host.netns }, guest.netns);
    return { close: async () => {} };
  },
};

interface Sample {
  readonly tcpGbps: number;
  readonly udpKpps: number;
}

/** TCP (mean of both directions) and small UDP datagrams over NICs of those types, beside copier and veth pair. Throws LinuxError EPERM without the rights for namespaces. */
export async function measureLinks(
  devices: readonly string[],
  seconds = PHASE_MS / 1000,
): Promise<BenchResult[]> {
  const kinds = ['copier', 'veth', ...devices];
  const samples = new Map<string, Sample[]>(kinds.map(kind => [kind, []]));
  for (let round = 0; round < ROUNDS; round++) {
    for (const kind of kinds) samples.get(kind)!.push(await measureOnce(kind, seconds * 1000));
  }
  const results: BenchResult[] = [];
  for (const [name, unit, pick] of [
    ['tap-tcp', 'Gbit/s', (s: Sample) => s.tcpGbps],
    ['tap-udp', 'kpps', (s: Sample) => s.udpKpps],
  ] as const) {
    const value = (kind: string) => median(samples.get(kind)!.map(pick));
    const copier = result(`${name}/copier`, unit, value('copier'));
    const veth = result(`${name}/veth`, unit, value('veth'));
    const simplest = devices.includes(SIMPLEST) ? [result(`${name}/${SIMPLEST}`, unit, value(SIMPLEST))] : [];
    results.push(copier, veth);
    for (const device of devices) {
      for (const against of device === SIMPLEST ? [copier, veth] : [copier, veth, ...simplest])
        results.push(result(`${name}/${device}`, unit, value(device), against));
    }
  }
  return results;
}

async function measureOnce(kind: string, forMs: number): Promise<Sample> {
  const network = Network.create();
  const link = await (LINKS[kind] ?? joinByNic(kind))(network);
  const ends = new TrafficEnds(network);
  const { guest, host } = network;
  try {
    await network.bringUp(new AbortController().signal);
    await ends.start();
    const there = await tcp(ends, guest, host, forMs);
    const back = await tcp(ends, host, guest, forMs);
    return { tcpGbps: (there + back) / 2, udpKpps: await udp(ends, guest, host, forMs) };
  } finally {
    await ends.close();
    await link.close();
    network.close();
  }
}

function joinByNic(device: string) {
  return async ({ guest, host }: Network): Promise<Link> => {
    const pair = new NicPair({ device, spin: false, verbose: false, netdev: guest.port, port: host.port });
    return {
      close: async () => {
        await pair.close();
      },
    };
  };
}

async function joinByCopier({ guest, host }: Network): Promise<Link> {
  const [first, second] = [guest, host].map(({ interfaceName, netns }) => {
    const tap = openTap({ name: interfaceName, netns, vnetHeader: false });
    tap.setCarrier(false); // out and in again: the kernel then calls the interface "up", not "unknown"
    tap.setCarrier(true);
    return tap;
  });
  const stop = new SharedArrayBuffer(4);
  const data: CopierStart = { taps: [first!.fd, second!.fd], stop };
  const worker = new Worker(new URL('./copier.js', import.meta.url), { workerData: data });
  await once(worker, 'message');
  return {
    close: async () => {
      Atomics.store(new Int32Array(stop), 0, 1);
      await once(worker, 'exit');
      first!.close();
      second!.close();
    },
  };
}

/** One TCP stream. Gbit/s. */
async function tcp(ends: TrafficEnds, from: Machine, to: Machine, forMs: number): Promise<number> {
  const at = { ip: to.ip, port: TCP_PORT };
  ends.shared.reset();
  const [received] = await ends.flow(to, { op: 'tcpReceive', at }, from, { op: 'tcpSend', to: at, forMs });
  if (received.corruptAt !== null) throw new BenchError(`TCP: corrupt after ${received.corruptAt} bytes`);
  return (received.bytes * 8) / received.seconds / 1e9;
}

/** Small datagrams, thousands a second. */
async function udp(ends: TrafficEnds, from: Machine, to: Machine, forMs: number): Promise<number> {
  const at = { ip: to.ip, port: UDP_PORT };
  ends.shared.reset();
  const [received, sent] = await ends.flow(to, { op: 'udpReceive', at }, from, {
    op: 'udpSend',
    to: at,
    forMs,
  });
  return received.received / sent.seconds / 1e3;
}
