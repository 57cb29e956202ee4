/** `polynic guest`: the guest's side of a NIC in a process of its own, with the operating system's network device as its other end. */
import { randomBytes } from 'node:crypto';
import { Command, Option } from '@commander-js/extra-typings';
import { ProxyDevice } from '../control/bpfhv-proxy/device.js';
import type { Blackout } from '../guest/bpfhv/commands.js';
import { BUFFER_PAIR } from '../guest/bpfhv/contract.js';
import { BpfhvDriver } from '../guest/bpfhv/driver.js';
import { readKeyFile } from '../guest/bpfhv/seal-key.js';
import { GuestRam } from '../guest/guest-ram.js';
import { parseMac } from '../linux/ip-address.js';
import { MAX_BUFS, MIN_BUFS } from '../nic/limits.js';
import { ControlError, type ControlInfo, type Controlled } from '../observe/control/messages.js';
import { openPort, portUsage } from '../port/registry.js';
import { controlOption, nameOption, openControl } from './control.js';
import { readCounters } from './counters.js';
import {
  childOf,
  cleaningUp,
  createHost,
  powerOfTwo,
  untilStopped,
  wholeNumber,
  workersOption,
  writePidfile,
} from './host.js';
import { createLog } from './log.js';
import { allOffloads, offloadHelp, offloads } from './offload.js';
import { answerParent } from './parent.js';
import { meetPeers, whenAborted } from './peers.js';
import { printStats } from './stats.js';
import { mtuKeeper } from './tap-mtu.js';
import { asTap, watchTap } from './tap-watch.js';

const MAX_QUEUE_PAIRS = 8;

export function guestCommand() {
  return new Command('guest')
    .description('be a guest: drive a NIC whose backend is another process')
    .requiredOption('--bpfhv-proxy <socket>', 'speak the bpfhv-proxy protocol on this UNIX socket')
    .option('--connect', 'connect to the backend')
    .addOption(new Option('--listen', 'let the backend connect (default)').conflicts('connect'))
    .requiredOption('--netdev <spec>', `the guest's network device: ${portUsage.join('  ')}`)
    .option('--queues <n>', 'queue pairs', wholeNumber('--queues', 1, MAX_QUEUE_PAIRS), 1)
    .addOption(workersOption())
    .option('--bufs <n>', 'descriptors per queue', powerOfTwo('--bufs', MIN_BUFS, MAX_BUFS), 256)
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
        const ram = new GuestRam(host.window, ramSize(options.queues, options.bufs));
        later(() => ram.close());
        const device = new ProxyDevice({ ram, queuePairs: options.queues, bufs: options.bufs, mac, log });
        later(() => device.close());
        const tap = asTap(netdev);
        /** For a parent, who asks now and then. */
        const fresh: Blackout[] = [];
        const driver = await BpfhvDriver.start({
          ...host,
          transport: device,
          netdev,
          spin: options.spin ?? false,
          workers: options.workers,
          features: options.offload,
          ...(key ? { key } : {}),
          log,
          onBlackout: blackout => options.childOf !== undefined && fresh.push(blackout),
          ...(tap ? { onOverhead: mtuKeeper(tap, log) } : {}),
          onMac: address => {
            // An interface forgets its neighbours when its address is set, even to the same one.
            if (tap && !address.every((octet, i) => octet === tap.tap.mac[i])) tap.tap.mac = address;
          },
        });
        // A TAP is up when its owner says so; other devices have no owner but us.
        const monitor = tap
          ? watchTap(
              tap,
              up => void driver.setInterfaceUp(up),
              error => fail(error),
            )
          : null;
        if (!tap) void driver.setInterfaceUp(true);

        // The driver gives its buffers back while the backend is still there, then the backend may go.
        const hangUp = new AbortController();
        const letGo = onlyOnce(async () => {
          monitor?.close();
          try {
            await driver.close();
          } finally {
            device.close();
            hangUp.abort();
          }
        });
        later(letGo);
        let failure: Error | null = null;
        const fail = (error: Error): void => {
          failure = error;
          void letGo().catch(() => {});
        };
        driver.onFailure = fail;
        whenAborted(stop.signal, () => void letGo().catch(() => {})); // the step at the end hears of it

        later(writePidfile(options.pidfile));
        const queues = () => driver.stats().queues;
        later(printStats(options.stats, queues, netdev));
        const controlled: Controlled = {
          info: (): ControlInfo => ({
            ...{ pid: process.pid, role: 'guest', device: null, port: options.netdev },
            ...{ socket: options.bpfhvProxy, connected: device.present, running: driver.running },
            ...{ queues: queues().length, features: null },
          }),
          stats: () => ({ ...readCounters(host.window, netdev, queues()), ...driver.stats() }),
          dump: () => driver.dump(),
          upgrade: async () => {
            throw new ControlError('UPGRADE_UNSUPPORTED', 'a guest follows its backend: upgrade that one');
          },
          leave: () => stop.abort('SIGTERM'),
        };
        const stats = () => ({ ...controlled.stats(), blackouts: fresh.splice(0) });
        const report = answerParent(options.childOf, { ...controlled, stats });
        goodbye = () => report(host.arena.live + ram.live);
        control.answer(controlled);
        await meetPeers({
          path: options.bpfhvProxy,
          listens: !options.connect,
          session: channel => device.serve(channel),
          signal: hangUp.signal,
          log,
          peer: 'a backend',
        });
        if (failure) throw failure;
      }),
    );
}

/** A function that does its work at the first call; all calls get the same result. */
function onlyOnce(work: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | null = null;
  return () => (done ??= work());
}

/** Guest memory for that many queues, with contexts and buffers, twice: an upgrade has old and new ones at once. */
function ramSize(queuePairs: number, bufs: number): number {
  const perPair = bufs * (BUFFER_PAIR + 2 * 64) + 2 * 65536;
  return Math.ceil((2 * queuePairs * perPair) / 0x20_0000) * 0x20_0000 + 0x20_0000;
}

/** A locally administered unicast address. */
function randomMac(): Uint8Array {
  const mac = randomBytes(6);
  mac[0] = (mac[0]! & 0xfc) | 2;
  return mac;
}
