/** `polynic serve`: a NIC backend for one guest. */
import { Command, Option } from '@commander-js/extra-typings';
import type { Channel } from '../control/bpfhv-proxy/index.js';
import { getAffinity } from '../linux/process.js';
import { MAX_BUFS, MAX_QUEUE_PAIRS, MIN_BUFS } from '../nic/limits.js';
import type { ControlInfo, Controlled } from '../observe/control/messages.js';
import { portUsage } from '../port/registry.js';
import { sring } from '../ring/sring.js';
import { keepAdapting } from './adapting.js';
import { controlOption, nameOption, openControl } from './control.js';
import { readCounters } from './counters.js';
import { device, deviceHelp } from './device.js';
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
import { createLog, type Log, sparing } from './log.js';
import { allOffloads, checkOffloads, offloadHelp, offloads } from './offload.js';
import { answerParent } from './parent.js';
import { meetPeers, whenAborted } from './peers.js';
import { type ServedNic, startBpfhv, startVirtio } from './served-nic.js';
import { ServedPort } from './served-port.js';
import { printStats } from './stats.js';

export function serveCommand() {
  return new Command('serve')
    .description('be the backend of a virtual NIC: process its queues and join them to a port')
    .addOption(
      new Option('--bpfhv-proxy <socket>', 'speak the bpfhv-proxy protocol on this UNIX socket').conflicts(
        'vhostUser',
      ),
    )
    .option('--vhost-user <socket>', 'speak vhost-user there: the back end of a virtio NIC')
    .addOption(
      new Option(
        '--connect',
        'connect to the hypervisor, again and again (default with --bpfhv-proxy)',
      ).conflicts('listen'),
    )
    .option('--listen', 'let the hypervisor connect (default with --vhost-user)')
    .addOption(new Option('--device <type>', deviceHelp).argParser(device).default(sring, sring.name))
    .requiredOption('--port <spec>', `where frames go and come from: ${portUsage.join('  ')}`)
    .option('--queues <n>', 'queue pairs at most', wholeNumber('--queues', 1, MAX_QUEUE_PAIRS), 8)
    .addOption(workersOption())
    .option('--bufs <n>', 'descriptors per queue at most', powerOfTwo('--bufs', MIN_BUFS, MAX_BUFS), MAX_BUFS)
    .addOption(new Option('--offload <list>', offloadHelp).argParser(offloads).default(allOffloads, 'all'))
    .option('--spin', 'never sleep: lowest latency, one core always busy')
    .option(
      '--adaptive',
      'choose ring format and way of waiting by the traffic, and change them as it changes',
    )
    .option(
      '--sleep-us <n>',
      'sleep after every iteration, microseconds',
      wholeNumber('--sleep-us', 0, 1_000_000),
      0,
    )
    .option(
      '--stats [seconds]',
      'print rates every so many seconds (2 when not said)',
      wholeNumber('--stats', 1, 3600),
    )
    .addOption(nameOption('nic'))
    .addOption(controlOption())
    .option('--pcap <file>', 'capture every frame, in both directions, as pcapng')
    .option('--pidfile <file>', 'write the process id there')
    .option('--require-sealed', 'refuse guest memory that its owner could shrink')
    .option('-v, --verbose', 'say what happens')
    .addOption(childOf())
    .action((options, command) =>
      cleaningUp(async later => {
        const virtio = options.vhostUser !== undefined;
        const path = options.vhostUser ?? options.bpfhvProxy;
        if (path === undefined) throw new UsageError('write --bpfhv-proxy SOCKET or --vhost-user SOCKET');
        if (virtio) {
          if (command.getOptionValueSource('device') === 'cli')
            throw new UsageError(
              "--device is for --bpfhv-proxy: a virtio ring's format is the guest's choice",
            );
          if (options.adaptive) throw new UsageError('--adaptive is for --bpfhv-proxy');
        } else checkOffloads(options.offload, options.device);
        const listens = options.listen ?? (virtio && !options.connect);
        const log = createLog(options.name ?? 'nic', options.verbose ?? false);
        const warn = sparing(log); // what a hypervisor can provoke must not fill a disk
        const nicLog: Log = (level, message) => (level === 'warn' ? warn : log)(level, message);
        const stop = untilStopped();
        const host = createHost();
        let goodbye = (): void => {};
        later(() => goodbye());
        const control = openControl(options, 'nic', log, later);

        const port = new ServedPort(options.port, host, options.queues);
        later(() => port.close());
        const nic = await (virtio ? startVirtio : startBpfhv)({
          ...{ ...host, device: options.device, port, offloads: options.offload },
          limits: { queuePairs: options.queues, bufs: options.bufs },
          spin: options.spin ?? false,
          workers: options.workers,
          sleepMicroseconds: options.sleepUs,
          requireSealed: options.requireSealed ?? false,
          capture: options.pcap,
          log: nicLog,
        });
        later(() => nic.close());
        later(writePidfile(options.pidfile));
        const queues = () => nic.stats().queues;
        later(printStats(options.stats, queues, { counters: () => port.handle.counters() }));
        let connected = false;
        let conversation = new AbortController();
        const hangUpOnce = async (): Promise<void> => {
          await stopQueues(nic, log);
          conversation.abort();
        };
        const controlled: Controlled = {
          info: (): ControlInfo => ({
            ...{ pid: process.pid, role: 'serve', device: nic.device, port: port.spec },
            ...{ socket: path, connected, running: nic.running },
            ...{ queues: queues().length, features: `0x${nic.agreed.toString(16)}` },
          }),
          stats: () => readCounters(host.window, port.handle, queues()),
          dump: () => nic.dump(),
          upgrade: wish => nic.upgrade(wish, path.startsWith('fd:') ? undefined : hangUpOnce),
          leave: () => stop.abort('SIGTERM'),
        };
        const report = answerParent(options.childOf, controlled);
        goodbye = () => report(host.arena.live);
        control.answer(controlled);
        if (options.adaptive && nic.bpfhv)
          later(
            keepAdapting({
              nic: nic.bpfhv,
              log,
              processors: Math.floor(getAffinity().length / options.workers),
            }),
          );

        // Stop the queues first, with what the guest has published sent, then let the hypervisor go.
        const hangUp = new AbortController();
        // Without its worker or its TAP the process could only pretend to be a NIC: whoever watches it is to start another.
        let failure: Error | null = null;
        const fail = (error: Error): void => {
          failure = error;
          hangUp.abort();
        };
        nic.onFailure = fail;
        port.onGone = fail;
        whenAborted(stop.signal, async () => {
          await stopQueues(nic, log);
          hangUp.abort();
        });
        const session = async (channel: Channel): Promise<boolean> => {
          log('info', 'hypervisor connected');
          connected = true;
          conversation = new AbortController();
          const { requests, refused, error } = await nic.converse(channel, {
            signal: AbortSignal.any([hangUp.signal, conversation.signal]),
            // Who listens holds nobody's place, and may begin late: a VMM that first fills its huge pages.
            ...(listens ? {} : { firstRequestTimeoutMs: Number.POSITIVE_INFINITY }),
            onRefused: (request, reason) => warn('warn', `${request} refused: ${reason.message}`),
          });
          connected = false;
          const lost = error !== null && !hangUp.signal.aborted && !conversation.signal.aborted;
          log(lost ? 'warn' : 'info', lost ? `hypervisor lost: ${error.message}` : 'hypervisor gone');
          // One whom we could not serve is no reason to be back at once.
          return requests > 0 && refused === 0;
        };
        await meetPeers({
          path,
          listens,
          session,
          signal: hangUp.signal,
          log,
          peer: 'a hypervisor',
        });
        if (failure) throw failure;
      }),
    );
}

/** Stops all queues, with what the guest has published sent. */
async function stopQueues(nic: ServedNic, log: Log): Promise<void> {
  try {
    await nic.stop();
  } catch (error) {
    log('error', (error as Error).message);
  }
}
