/** `polynic serve`: a NIC backend for one guest. */
import { Command, Option } from '@commander-js/extra-typings';
import {
  type Channel,
  ConnectionSlot,
  keepConnected,
  serveBackend,
  socketChannel,
} from '../control/bpfhv-proxy/index.js';
import { UnixListener } from '../linux/unix-listener.js';
import { connectUnix } from '../linux/unix-socket.js';
import { MAX_BUFS, MAX_QUEUE_PAIRS, MIN_BUFS, Nic } from '../nic/nic.js';
import { openPort, portUsage } from '../port/registry.js';
import { deviceType, deviceTypeNames } from '../ring/registry.js';
import {
  childOf,
  createHost,
  powerOfTwo,
  UsageError,
  untilStopped,
  wholeNumber,
  writePidfile,
} from './host.js';
import { createLog } from './log.js';
import { answerParent, inheritedSocket } from './parent.js';
import { printStats } from './stats.js';

export function serveCommand() {
  return new Command('serve')
    .description('be the backend of a virtual NIC: process its queues and join them to a port')
    .requiredOption('--bpfhv-proxy <socket>', 'speak the bpfhv-proxy protocol on this UNIX socket')
    .addOption(
      new Option('--connect', 'connect to the hypervisor, again and again (default)').conflicts('listen'),
    )
    .option('--listen', 'let the hypervisor connect')
    .addOption(new Option('--device <type>', 'the ring format').choices(deviceTypeNames).default('sring'))
    .requiredOption('--port <spec>', `where frames go and come from: ${portUsage.join('  ')}`)
    .option('--queues <n>', 'queue pairs at most', wholeNumber('--queues', 1, MAX_QUEUE_PAIRS), 8)
    .option('--bufs <n>', 'descriptors per queue at most', powerOfTwo('--bufs', MIN_BUFS, MAX_BUFS), MAX_BUFS)
    .option('--offload <list>', 'offloads: none (sring has none to offer)', 'none')
    .option('--spin', 'never sleep: lowest latency, one core always busy')
    .option(
      '--sleep-us <n>',
      'sleep after every iteration, microseconds',
      wholeNumber('--sleep-us', 0, 1_000_000),
      0,
    )
    .option('--stats [seconds]', 'print rates every so many seconds', wholeNumber('--stats', 1, 3600))
    .option('--name <name>', 'the name in messages', 'nic')
    .option('--pcap <file>', 'capture every frame, in both directions, as pcapng')
    .option('--pidfile <file>', 'write the process id there')
    .option('--require-sealed', 'refuse guest memory that its owner could shrink')
    .option('-v, --verbose', 'say what happens')
    .addOption(childOf())
    .action(async options => {
      if (options.offload !== 'none') {
        throw new UsageError(
          `--offload: device type ${options.device} offers none, so only "none" can be asked`,
        );
      }
      const log = createLog(options.name, options.verbose ?? false);
      const stop = untilStopped();
      const host = createHost();
      const port = openPort(options.port, host);
      const nic = await Nic.start({
        ...host,
        device: deviceType(options.device)!,
        port,
        limits: { queuePairs: options.queues, bufs: options.bufs },
        spin: options.spin ?? false,
        sleepMicroseconds: options.sleepUs,
        requireSealed: options.requireSealed ?? false,
        capture: options.pcap,
        log,
      });
      const removePidfile = writePidfile(options.pidfile);
      const stopStats = printStats(options.stats, () => nic.stats().queues);
      const queues = () => nic.stats().queues;
      const goodbye = answerParent(options.childOf, { window: host.window, port, queues });

      // Stop the queues first, with what the guest has published sent, then let the hypervisor go.
      const hangUp = new AbortController();
      stop.signal.addEventListener('abort', async () => {
        await nic.disable('tx');
        await nic.disable('rx');
        hangUp.abort();
      });
      const session = async (channel: Channel): Promise<boolean> => {
        log('info', 'hypervisor connected');
        const { requests, refused, error } = await serveBackend(channel, nic, {
          signal: hangUp.signal,
          onRefused: (request, reason) => log('warn', `${request} refused: ${reason.message}`),
        });
        const lost = error !== null && !hangUp.signal.aborted;
        log(lost ? 'warn' : 'info', lost ? `hypervisor lost: ${error.message}` : 'hypervisor gone');
        // One whom we could not serve is no reason to be back at once.
        return requests > 0 && refused === 0;
      };
      try {
        const inherited = inheritedSocket(options.bpfhvProxy);
        if (inherited) await session(socketChannel(inherited));
        else if (options.listen) await listen(options.bpfhvProxy, session, hangUp.signal);
        else {
          let waiting = false;
          await keepConnected({
            connect: () => socketChannel(connectUnix(options.bpfhvProxy)),
            session: channel => {
              waiting = false;
              return session(channel);
            },
            signal: hangUp.signal,
            onWait: (_delay, error) => {
              if (error && !waiting) log('warn', `waiting for a hypervisor: ${error.message}`);
              waiting ||= error !== null;
            },
          });
        }
      } finally {
        stopStats();
        await nic.close();
        port.close();
        removePidfile();
        goodbye(host.arena.live);
      }
    });
}

type Session = (channel: Channel) => Promise<boolean>;

/** Serves who connects, one at a time, until the signal aborts. */
export async function listen(path: string, session: Session, signal: AbortSignal): Promise<void> {
  const slot = new ConnectionSlot(session);
  const listener = UnixListener.listen(path);
  const failed = new Promise<never>((_, reject) => {
    listener.onConnection(socket => slot.offer(socketChannel(socket)), reject);
  });
  const aborted = new Promise<void>(resolve => {
    if (signal.aborted) resolve();
    signal.addEventListener('abort', () => resolve());
  });
  try {
    await Promise.race([failed, aborted]);
  } finally {
    listener.close();
    await slot.close();
  }
}
