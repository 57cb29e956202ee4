/** `polynic vm`: a virtual machine in stock QEMU whose NICs are ours, and the command lines that make it. */
import { accessSync, constants, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command, Option } from '@commander-js/extra-typings';
import { formatMac } from '../linux/ip-address.js';
import { MAX_QUEUE_PAIRS } from '../nic/limits.js';
import { portUsage } from '../port/registry.js';
import { machineArgs, nicArgs, quoted } from '../vm/command-line.js';
import { type Accelerator, findQemu } from '../vm/qemu.js';
import { runVm } from '../vm/run.js';
import { cardNames, deviceHelp, deviceOrCard } from './device.js';
import { cleaningUp, UsageError, untilStopped, wholeNumber } from './host.js';
import { macAddress, macAfter, randomMac } from './mac.js';

const POLYNIC = fileURLToPath(new URL('../../../bin/polynic.js', import.meta.url));

/** Each NIC has a process of its own here, so that a switch would have one port. */
const SWITCH =
  '--port switch:… joins NICs of one process, and here each has its own: write them into a file for `polynic serve --config`, and give QEMU the words that --dry-run prints with their sockets';

export function vmCommand() {
  return new Command('vm')
    .description('start a virtual machine in QEMU with NICs of ours, and say how')
    .requiredOption(
      '--port <spec>',
      `a NIC whose frames go and come there; once for each NIC: ${portUsage.join('  ')}`,
      (spec: string, all: string[] | undefined) => [...(all ?? []), spec],
    )
    .addOption(
      new Option(
        '--device <kind>',
        `vhost-user: virtio-net, its queues ours; else a whole PCI device of ours, for QEMU 10.1 and later: ${deviceHelp}, ${cardNames}`,
      )
        .argParser(kindOf)
        .default('vhost-user'),
    )
    .option('--queues <n>', 'queue pairs of each NIC', wholeNumber('--queues', 1, MAX_QUEUE_PAIRS), 1)
    .option(
      '--mac <address>',
      "the first NIC's address, from which others are counted (default: a random one)",
      macAddress,
    )
    .option('--qemu <path>', 'the QEMU to run', 'qemu-system-x86_64')
    .addOption(
      new Option('--accel <kind>', 'kvm needs /dev/kvm, which is the default where it can be used').choices([
        'kvm',
        'tcg',
      ]),
    )
    .option('--memory <mb>', 'memory of the guest', wholeNumber('--memory', 16, 1 << 24), 1024)
    .option('--cpus <n>', 'processors of the guest', wholeNumber('--cpus', 1, 255), 2)
    .option('--kernel <file>', 'the Linux kernel to boot; default: what is on the disk that you add')
    .option('--initrd <file>', 'its initial root file system')
    .option('--append <text>', "the kernel's command line")
    .option(
      '--iommu',
      'an IOMMU, for programs in the guest that drive devices; the kernel needs intel_iommu=on',
    )
    .option('--dry-run', 'print the command lines, start nothing')
    .argument(
      '[words...]',
      'behind --: further words for QEMU, such as disks; -nographic when there are none',
    )
    .action((further, options) =>
      cleaningUp(async later => {
        if (!options.kernel && (options.initrd || options.append)) {
          throw new UsageError('--initrd and --append belong to a --kernel');
        }
        if (options.port.some(spec => /^switch(:|$)/.test(spec))) throw new UsageError(SWITCH);
        const mac = options.mac ?? randomMac();
        const qemu = findQemu(options.qemu);
        const accelerator = (options.accel as Accelerator | undefined) ?? (canUseKvm() ? 'kvm' : 'tcg');
        const folder = options.dryRun ? '/run' : mkdtempSync(join(tmpdir(), 'polynic-vm-'));
        if (!options.dryRun) later(() => rmSync(folder, { recursive: true, force: true }));
        const nics = options.port.map((port, n) => ({
          port,
          id: `nic${n}`,
          mac: formatMac(macAfter(mac, n)),
          socket: join(folder, `nic${n}.sock`),
        }));
        const pci = options.device !== 'vhost-user';
        const backends = nics.map(({ port, socket, mac }) => [
          ...(pci
            ? ['serve', '--vfio-user', socket, '--device', options.device, '--mac', mac]
            : ['serve', '--vhost-user', socket, '--connect']),
          ...['--port', port, ...(options.queues > 1 ? ['--queues', String(options.queues)] : [])],
        ]);
        const machine = machineArgs({
          ...{ memoryMb: options.memory, cpus: options.cpus, accelerator },
          ...{ kernel: options.kernel, initrd: options.initrd, append: options.append },
          iommu: options.iommu ?? false,
        });
        const words = [
          ...[qemu.path, ...machine],
          ...nics.flatMap(({ id, socket, mac }) => {
            const { queues } = options;
            const nic = pci
              ? ({ kind: 'vfio-user', socket } as const)
              : ({ kind: 'vhost-user', listener: 'qemu', socket, mac, queues } as const);
            return nicArgs(qemu, accelerator, nic, id);
          }),
          ...(further.length > 0 ? further : ['-nographic']),
        ];
        const say = (line: string) => process.stderr.write(`${line}\n`);
        for (const backend of backends) say(`polynic ${quoted(backend)}`);
        say(quoted(words));
        if (options.dryRun) return;
        const sockets = pci ? nics.map(({ socket }) => socket) : [];
        await runVm({ qemu: words, backends, sockets, polynic: POLYNIC, log: say }, untilStopped().signal);
      }),
    );
}

/** A word that `serve --device` would take too. Throws UsageError. */
function kindOf(word: string): string {
  if (word !== 'vhost-user') deviceOrCard(word);
  return word.includes('/') || word.includes('.') ? resolve(word) : word;
}

function canUseKvm(): boolean {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
