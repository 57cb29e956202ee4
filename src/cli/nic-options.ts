/** The options of `polynic serve` that describe a NIC: on the command line, or as keys of a configuration file (config/). */
import { type Command, Option } from '@commander-js/extra-typings';
import { MAX_DOORBELL_SIZE, MIN_DOORBELL_SIZE } from '../guest/pci/bpfhv-numbers.js';
import { MAX_BUFS, MAX_QUEUE_PAIRS, MIN_BUFS } from '../nic/limits.js';
import { portUsage } from '../port/registry.js';
import type { DeviceType } from '../ring/ring.js';
import { sring } from '../ring/sring.js';
import { controlOption, nameOption } from './control.js';
import { cardNames, deviceHelp, deviceOrCard, type VirtioCard } from './device.js';
import { powerOfTwo, UsageError, wholeNumber, workersOption } from './host.js';
import { macAddress } from './mac.js';
import { allOffloads, checkOffloads, offloadHelp, offloads } from './offload.js';

/** The name of who is not given one. */
export const DEFAULT_NAME = 'nic';

/** Adds them to a command. */
export function nicOptions(command: Command) {
  return command
    .addOption(
      new Option('--bpfhv-proxy <socket>', 'speak the bpfhv-proxy protocol on this UNIX socket').conflicts([
        'vhostUser',
        'vfioUser',
      ]),
    )
    .addOption(
      new Option('--vhost-user <socket>', 'speak vhost-user there: the back end of a virtio NIC').conflicts(
        'vfioUser',
      ),
    )
    .option('--vfio-user <socket>', 'speak vfio-user there: a whole PCI device, for QEMU 10.1 and later')
    .addOption(
      new Option(
        '--connect',
        'connect to the hypervisor, again and again (default with --bpfhv-proxy)',
      ).conflicts('listen'),
    )
    .option('--listen', 'let the hypervisor connect (default with --vhost-user and --vfio-user)')
    .addOption(
      new Option('--device <type>', `${deviceHelp}; with --vfio-user also ${cardNames}`)
        .argParser(deviceOrCard)
        .default(sring as DeviceType | VirtioCard, sring.name),
    )
    .option('--port <spec>', `where frames go and come from: ${portUsage.join('  ')}`)
    .option(
      '--queues <n>',
      'queue pairs at most; with --vfio-user: that many (1 when not said)',
      wholeNumber('--queues', 1, MAX_QUEUE_PAIRS),
      8,
    )
    .addOption(workersOption())
    .option(
      '--bufs <n>',
      'descriptors per queue at most; with --vfio-user: that many (256 when not said)',
      powerOfTwo('--bufs', MIN_BUFS, MAX_BUFS),
      MAX_BUFS,
    )
    .option('--mac <address>', "with --vfio-user: the NIC's address (default: a random one)", macAddress)
    .option(
      '--doorbell-size <bytes>',
      'with --vfio-user: from one doorbell to the next; 4096 puts each on a page of its own (8 when not said)',
      powerOfTwo('--doorbell-size', MIN_DOORBELL_SIZE, MAX_DOORBELL_SIZE),
    )
    .addOption(new Option('--offload <list>', offloadHelp).argParser(offloads).default(allOffloads, 'all'))
    .option(
      '--no-msix',
      'with --vfio-user, virtio: interrupts by a line alone; QEMU 11.1 needs it to pull a card out',
    )
    .option('--split', 'virtio: offer split rings only; Linux takes packed ones where it can')
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

/** What is served: a backend behind a virtual machine monitor's device, or the device itself. */
export type NicKind = 'bpfhv' | 'virtio' | 'bpfhv-pci' | 'virtio-pci';

/** A NIC as the user has described it. */
export interface NicOptions extends Omit<ReturnType<NicCommand['opts']>, 'device'> {
  readonly kind: NicKind;
  /** The ring format; of no meaning for virtio. */
  readonly device: DeviceType;
  /** Of a virtio-net PCI device: it can also be driven by drivers from before virtio 1.0. */
  readonly transitional: boolean;
  readonly port: string;
  /** The socket. */
  readonly path: string;
  readonly listens: boolean;
}

/** The protocols: whoever is named first in a conversation connects, unless something else is said. */
const PROTOCOLS = [
  { option: 'bpfhvProxy', flag: '--bpfhv-proxy', listens: false },
  { option: 'vhostUser', flag: '--vhost-user', listens: true },
  { option: 'vfioUser', flag: '--vfio-user', listens: true },
] as const;

/** What such a command was given, once it is known to make sense. Throws UsageError. */
export function readNicOptions(command: Pick<NicCommand, 'opts' | 'getOptionValueSource'>): NicOptions {
  const options = command.opts();
  const given = (name: 'device' | 'queues' | 'bufs') => command.getOptionValueSource(name) === 'cli';
  const protocol = PROTOCOLS.find(({ option }) => options[option] !== undefined);
  if (!protocol)
    throw new UsageError('write --bpfhv-proxy SOCKET, --vhost-user SOCKET or --vfio-user SOCKET');
  const pci = protocol.option === 'vfioUser';
  const { port, device } = options;
  if (port === undefined) throw new UsageError('write --port SPEC: where frames go and come from');
  const card = typeof device === 'string' ? device : null;
  if (card && !pci) throw new UsageError(`--device ${card} is for --vfio-user`);
  const virtio = card !== null || protocol.option === 'vhostUser';
  if (protocol.option === 'vhostUser' && given('device'))
    throw new UsageError("--device is for --bpfhv-proxy: a virtio ring's format is the guest's choice");
  if (virtio && options.adaptive) throw new UsageError('--adaptive is for bpfhv: virtio has one ring format');
  if (!pci && (options.mac || options.doorbellSize !== undefined))
    throw new UsageError(
      "--mac and --doorbell-size are for --vfio-user: elsewhere they are the hypervisor's",
    );
  if (virtio && options.doorbellSize !== undefined)
    throw new UsageError('--doorbell-size is for bpfhv: virtio says by itself where its doorbells are');
  if (!(virtio && pci) && !options.msix) throw new UsageError('--no-msix is for virtio with --vfio-user');
  if (!virtio && options.split) throw new UsageError('--split is for virtio');
  if (!virtio) checkOffloads(options.offload, device as DeviceType);
  return {
    ...options,
    ...{
      port,
      path: options[protocol.option]!,
      listens: options.listen ?? (protocol.listens && !options.connect),
    },
    ...{ kind: `${virtio ? 'virtio' : 'bpfhv'}${pci ? '-pci' : ''}` as NicKind },
    ...{
      device: typeof device === 'string' ? sring : device,
      transitional: card === 'virtio-net-transitional',
    },
    ...(pci && !given('queues') ? { queues: 1 } : {}),
    ...(pci && !given('bufs') ? { bufs: 256 } : {}),
  };
}
