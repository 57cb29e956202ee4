/** `polynic guest`: the guest's side of a NIC in a process of its own, with the operating system's network device as its other end. */
import { Command, Option } from '@commander-js/extra-typings';
import type { Blackout } from '../guest/bpfhv/commands.js';
import { readKeyFile } from '../guest/bpfhv/seal-key.js';
import { parseMac } from '../linux/ip-address.js';
import { MAX_BUFS, MIN_BUFS } from '../nic/limits.js';
import { ControlError, type ControlInfo, type Controlled } from '../observe/control/messages.js';
import { openPort, portUsage } from '../port/registry.js';
import { controlOption, nameOption, openControl } from './control.js';
import { readCounters } from './counters.js';
import {
  type GuestNic,
  type GuestNicOptions,
  startBpfhvGuest,
  startVhostKernelGuest,
  startVhostUserGuest,
} from './guest-nic.js';
import {
  childOf,
  cleaningUp,
  createHost,
  powerOfTwo,
  UsageError,
  untilStopped,
  wholeNumber,
  workersOption,
  writePidfile,
} from './host.js';
import { createLog } from './log.js';
import { randomMac } from './mac.js';
import { allOffloads, offloadHelp, offloads } from './offload.js';
import { answerParent } from './parent.js';
import { meetPeers, whenAborted } from './peers.js';
import { printStats } from './stats.js';
import { tellOffloads } from './tap-offloads.js';
import { asTap, watchTap } from './tap-watch.js';

const MAX_QUEUE_PAIRS = 8;

export function guestCommand() {
  return new Command('guest')
    .description('be a guest: drive a NIC whose backend is another process')
    .option('--bpfhv-proxy <socket>', 'speak the bpfhv-proxy protocol on this UNIX socket')
    .addOption(
      new Option('--vhost-user <socket>', 'speak vhost-user there: a virtio NIC').conflicts('bpfhvProxy'),
    )
    .addOption(
      new Option('--vhost-kernel', "a virtio NIC whose backend is the kernel's vhost-net").conflicts([
        ...['bpfhvProxy', 'vhostUser', 'connect', 'listen'],
      ]),
    )
    .option('--tap-backend <ifname>', 'the TAP or macvtap behind --vhost-kernel, IFNAME[,netns=NAME]')
    .addOption(
      new Option('--connect', 'connect to the backend (default with --vhost-user)').conflicts('listen'),
    )
    .option('--listen', 'let the backend connect (default with --bpfhv-proxy)')
    .requiredOption('--netdev <spec>', `the guest's network device: ${portUsage.join('  ')}`)
    .option('--queues <n>', 'queue pairs', wholeNumber('--queues', 1, MAX_QUEUE_PAIRS), 1)
    .addOption(workersOption())
    .option('--bufs <n>', 'descriptors per queue', powerOfTwo('--bufs', MIN_BUFS, MAX_BUFS), 256)
    .option('--packed', 'virtio: packed rings, where the backend has them')
    .addOption(new Option('--offload <list>', offloadHelp).argParser(offloads).default(allOffloads, 'all'))
    .option('--key-file <file>', 'seal all packets with the key in this file, open to nobody else')
    .option('--mac <address>', "the NIC's address (default: a random one)")
    .option('--spin', 'never sleep: lowest latency, one core always busy')
    .option(
      '--stats [seconds]',
      'print rates every so many seconds (2 when not said)',
      wholeNumber('--stats', 1, 3600),
    )
    .addOption(nameOption('guest'))
    .addOption(controlOption())
    .option('--pidfile <file>', 'write the process id there')
    .option('-v, --verbose', 'say what happens')
    .addOption(childOf())
    .action(options =>
      cleaningUp(async later => {
        const { start, path } = protocolOf(options);
        const log = createLog(options.name ?? 'guest', options.verbose ?? false);
        const mac = options.mac === undefined ? randomMac() : parseMac(options.mac);
        const key = options.keyFile === undefined ? undefined : readKeyFile(options.keyFile);
        const stop = untilStopped();
        const host = createHost();
        let goodbye = (): void => {};
        later(() => goodbye());
        const control = openControl(options, 'guest', log, later);

        const netdev = openPort(options.netdev, host, options.queues);
        later(() => netdev.close());
        tellOffloads(netdev, log);
        const tap = asTap(netdev);
        /** For a parent, who asks now and then. */
        const fresh: Blackout[] = [];
        const nic = await start({
          ...{ ...host, ...options, netdev, mac, key, log, later },
          spin: options.spin ?? false,
          packed: options.packed ?? false,
          onBlackout: blackout => options.childOf !== undefined && fresh.push(blackout),
        });
        // A TAP is up when its owner says so; other devices have no owner but us.
        const monitor = tap
          ? watchTap(
              tap,
              up => void nic.setInterfaceUp(up),
              error => fail(error),
            )
          : null;
        if (!tap) void nic.setInterfaceUp(true);

        // The driver gives its buffers back while the backend is still there, then the backend may go.
        const hangUp = new AbortController();
        const letGo = onlyOnce(async () => {
          monitor?.close();
          try {
            await nic.close();
          } finally {
            hangUp.abort();
          }
        });
        later(letGo);
        let failure: Error | null = null;
        const fail = (error: Error): void => {
          failure = error;
          void letGo().catch(() => {});
        };
        nic.onFailure = fail;
        whenAborted(stop.signal, () => void letGo().catch(() => {})); // the step at the end hears of it

        later(writePidfile(options.pidfile));
        const queues = () => nic.stats().queues;
        later(printStats(options.stats, queues, netdev));
        const controlled: Controlled = {
          info: (): ControlInfo => ({
            ...{ pid: process.pid, role: 'guest', device: null, port: options.netdev },
            ...{ socket: path ?? '-', connected: nic.connected, running: nic.running },
            ...{
              queues: queues().length,
              features: nic.features === null ? null : `0x${nic.features.toString(16)}`,
            },
          }),
          stats: () => ({ ...readCounters(host.window, netdev, queues()), ...nic.stats() }),
          dump: () => nic.dump(),
          upgrade: async () => {
            throw new ControlError('UPGRADE_UNSUPPORTED', 'a guest follows its backend: upgrade that one');
          },
          leave: () => stop.abort('SIGTERM'),
        };
        const stats = () => ({ ...controlled.stats(), blackouts: fresh.splice(0) });
        const report = answerParent(options.childOf, { ...controlled, stats });
        goodbye = () => report(host.arena.live + nic.live);
        control.answer(controlled);
        if (path === undefined) await new Promise<void>(resolve => whenAborted(hangUp.signal, resolve));
        else {
          await meetPeers({
            ...{ path, signal: hangUp.signal, log, peer: 'a backend' },
            listens: options.listen ?? (options.vhostUser === undefined && !options.connect),
            session: channel => nic.serve(channel),
          });
        }
        if (failure) throw failure;
      }),
    );
}

interface ProtocolOptions {
  readonly bpfhvProxy?: string;
  readonly vhostUser?: string;
  readonly vhostKernel?: true;
  readonly tapBackend?: string;
  readonly packed?: true;
  readonly keyFile?: string;
}

/** How the NIC is started, and the socket at which its backend is met; undefined: the kernel needs none. Throws UsageError. */
function protocolOf(options: ProtocolOptions): {
  start: (nic: GuestNicOptions) => Promise<GuestNic>;
  path: string | undefined;
} {
  const { bpfhvProxy, vhostUser, vhostKernel = false, tapBackend, packed, keyFile } = options;
  if ((tapBackend !== undefined) !== vhostKernel)
    throw new UsageError('--vhost-kernel and --tap-backend IFNAME go together');
  if (bpfhvProxy === undefined && keyFile !== undefined)
    throw new UsageError('--key-file is for --bpfhv-proxy: virtio has no programs that could seal');
  if (bpfhvProxy !== undefined) {
    if (packed)
      throw new UsageError('--packed is for virtio: over --bpfhv-proxy the ring format is the backend’s');
    return { start: startBpfhvGuest, path: bpfhvProxy };
  }
  if (vhostUser !== undefined) return { start: startVhostUserGuest, path: vhostUser };
  if (tapBackend !== undefined)
    return { start: nic => startVhostKernelGuest(nic, tapBackend), path: undefined };
  throw new UsageError('write --bpfhv-proxy SOCKET, --vhost-user SOCKET or --vhost-kernel');
}

/** A function that does its work at the first call; all calls get the same result. */
function onlyOnce(work: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | null = null;
  return () => (done ??= work());
}
