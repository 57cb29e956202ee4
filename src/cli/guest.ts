/** `polynic guest`: the guest's side of a NIC in a process of its own, with the operating system's network device as its other end. */
import { Command, Option } from '@commander-js/extra-typings';
import type { Blackout } from '../guest/bpfhv/commands.js';
import { readKeyFile } from '../guest/bpfhv/seal-key.js';
import { parsePciAddress } from '../linux/pci-bind.js';
import { MAX_BUFS, MIN_BUFS } from '../nic/limits.js';
import { ControlError, type ControlInfo, type Controlled } from '../observe/control/messages.js';
import { openPort, portUsage } from '../port/registry.js';
import { controlOption, nameOption, openControl } from './control.js';
import { readCounters } from './counters.js';
import { NOT_ON_PCI, protocolOf } from './guest-protocol.js';
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
import { macAddress, randomMac } from './mac.js';
import { allOffloads, offloadHelp, offloads } from './offload.js';
import { answerParent } from './parent.js';
import { whenAborted } from './peers.js';
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
    .addOption(
      new Option(
        '--pci <address>',
        'a bpfhv or virtio NIC on PCI, as in 0000:01:00.0: queues and buffers are its own',
      )
        .argParser(pciAddress)
        .conflicts([...NOT_ON_PCI, 'vfioUser']),
    )
    .addOption(
      new Option('--vfio-user <socket>', 'the same, the device of a vfio-user server there').conflicts([
        ...NOT_ON_PCI,
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
    .option(
      '--max-bufs <n>',
      'PCI: descriptors per queue that memory is reserved for (default: as many as there are)',
      powerOfTwo('--max-bufs', MIN_BUFS, MAX_BUFS),
    )
    .option('--packed', 'virtio: packed rings, where the backend has them')
    .addOption(new Option('--offload <list>', offloadHelp).argParser(offloads).default(allOffloads, 'all'))
    .option('--key-file <file>', 'seal all packets with the key in this file, open to nobody else')
    .option('--mac <address>', "the NIC's address (default: a random one)", macAddress)
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
        const { place, open } = protocolOf(options);
        const log = createLog(options.name ?? 'guest', options.verbose ?? false);
        const mac = options.mac ?? randomMac();
        const key = options.keyFile === undefined ? undefined : readKeyFile(options.keyFile);
        const stop = untilStopped();
        const host = createHost();
        let goodbye = (): void => {};
        later(() => goodbye());
        const control = openControl(options, 'guest', log, later);

        const hangUp = new AbortController();
        const protocol = await open({ log, later, hangUp, stop: stop.signal });
        if (!protocol) return;
        const { start, meet, queues: pairs = options.queues } = protocol;
        const netdev = openPort(options.netdev, host, Math.min(pairs, MAX_QUEUE_PAIRS));
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
            ...{ socket: place, connected: nic.connected, running: nic.running },
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
        await meet(nic);
        if (failure) throw failure;
      }),
    );
}

/** For commander. Throws UsageError. */
function pciAddress(text: string): string {
  const address = parsePciAddress(text);
  if (address === null)
    throw new UsageError(`--pci takes an address such as 0000:01:00.0 or 01:00.0, not "${text}"`);
  return address;
}

/** A function that does its work at the first call; all calls get the same result. */
function onlyOnce(work: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | null = null;
  return () => (done ??= work());
}
