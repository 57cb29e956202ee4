/** The options of `polynic serve` that describe a NIC: on the command line, or as keys of a configuration file (config/). */
import { type Command, Option } from '@commander-js/extra-typings';
import { MAX_BUFS, MAX_QUEUE_PAIRS, MIN_BUFS } from '../nic/limits.js';
import { portUsage } from '../port/registry.js';
import { sring } from '../ring/sring.js';
import { controlOption, nameOption } from './control.js';
import { device, deviceHelp } from './device.js';
import { powerOfTwo, UsageError, wholeNumber, workersOption } from './host.js';
import { allOffloads, checkOffloads, offloadHelp, offloads } from './offload.js';

/** The name of who is not given one. */
export const DEFAULT_NAME = 'nic';

/** Adds them to a command. */
export function nicOptions(command: Command) {
  return command
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
    .option('--port <spec>', `where frames go and come from: ${portUsage.join('  ')}`)
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
    .addOption(nameOption(DEFAULT_NAME))
    .addOption(controlOption())
    .option('--pcap <file>', 'capture every frame, in both directions, as pcapng')
    .option('--require-sealed', 'refuse guest memory that its owner could shrink');
}

type NicCommand = ReturnType<typeof nicOptions>;

/** A NIC as the user has described it. */
export interface NicOptions extends ReturnType<NicCommand['opts']> {
  readonly port: string;
  /** The socket. */
  readonly path: string;
  /** The protocol is vhost-user. */
  readonly virtio: boolean;
  readonly listens: boolean;
}

/** What such a command was given, once it is known to make sense. Throws UsageError. */
export function readNicOptions(command: Pick<NicCommand, 'opts' | 'getOptionValueSource'>): NicOptions {
  const options = command.opts();
  const virtio = options.vhostUser !== undefined;
  const path = options.vhostUser ?? options.bpfhvProxy;
  if (path === undefined) throw new UsageError('write --bpfhv-proxy SOCKET or --vhost-user SOCKET');
  const { port } = options;
  if (port === undefined) throw new UsageError('write --port SPEC: where frames go and come from');
  if (virtio) {
    if (command.getOptionValueSource('device') === 'cli')
      throw new UsageError("--device is for --bpfhv-proxy: a virtio ring's format is the guest's choice");
    if (options.adaptive) throw new UsageError('--adaptive is for --bpfhv-proxy');
  } else checkOffloads(options.offload, options.device);
  return { ...options, port, path, virtio, listens: options.listen ?? (virtio && !options.connect) };
}
