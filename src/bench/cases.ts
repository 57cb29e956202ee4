/** All that can be measured, in the order in which it is: what is quick and needs no rights comes first. */
import { LARGE_FRAME } from '../../datapath/layout.js';
import { frameLimits } from '../ring/features.js';
import { deviceType, deviceTypeNames } from '../ring/registry.js';
import type { Direction } from './bed.js';
import { measureDoorbell } from './doorbell.js';
import { measureLinks } from './links.js';
import { measureLoad } from './load.js';
import { measureKernel, measureParts } from './parts.js';
import type { BenchResult } from './result.js';
import { measureRingCalls } from './ring-calls.js';
import { measureRing } from './rings.js';
import { measureSealing, SEAL_LENGTHS } from './seal.js';
import { measureUpgrades } from './upgrades.js';
import { measureVhostUser, type VirtioFormat } from './vhost-user.js';
import { measureVmNic } from './vm-nic.js';
import { measureVmTcp, WAYS, type Way } from './vm-tcp.js';

/** Cases that are measured together. */
export interface Group {
  /** The cases that it measures are these, or begin so. */
  readonly names: readonly string[];
  /** Measures those of them, and what they are compared with. Throws BenchError; LinuxError without the rights. */
  run(names: readonly string[]): Promise<readonly BenchResult[]>;
}

const DIRECTIONS: readonly Direction[] = ['tx', 'rx'];
const LENGTHS = [60, 1514];
const VIRTIO: readonly VirtioFormat[] = ['split', 'packed'];
const FORMATS = [...deviceTypeNames, ...VIRTIO];
/** As DPDK has them. */
const VHOST_LENGTHS = [64, 1514];

/** The groups of which some case is wanted: each with the names that begin like `wanted`, or that `wanted` goes on from. */
export function groupsOf(wanted: string): Group[] {
  const isWanted = (name: string) => name.startsWith(wanted) || wanted.startsWith(`${name}/`);
  return GROUPS.map(group => ({ ...group, names: group.names.filter(isWanted) })).filter(
    ({ names }) => names.length > 0,
  );
}

const GROUPS: readonly Group[] = [
  ...deviceTypeNames.flatMap(partsOf),
  ...DIRECTIONS.map(direction => ({
    names: FORMATS.map(format => `ring/${format}/${direction}`),
    run: (names: readonly string[]) => measureRingCalls(seconds(names), direction),
  })),
  ...SEAL_LENGTHS.map(length => ({
    names: [`seal/${length}`],
    run: async () => measureSealing(length),
  })),
  ...deviceTypeNames.map(device => ({
    names: [`load/${device}`],
    run: () => measureLoad(deviceType(device)!),
  })),
  ...deviceTypeNames.flatMap(twoProcesses),
  {
    names: deviceTypeNames.flatMap(device => [`tap-tcp/${device}`, `tap-udp/${device}`]),
    run: names => measureLinks(seconds(names)),
  },
  { names: ['upgrade'], run: () => measureUpgrades() },
  { names: ['pci/doorbell'], run: () => measureDoorbell() },
  { names: ['vm-nic'], run: () => measureVmNic() },
  ...VIRTIO.flatMap(besideDpdk),
  ...VIRTIO.map(format => ({
    names: WAYS.map(way => `vm-tcp/${format}/${way}`),
    run: (names: readonly string[]) =>
      measureVmTcp(
        format,
        names.map(name => name.split('/')[2] as Way),
      ),
  })),
];

/** The second words of paths, each once. */
function seconds(names: readonly string[]): string[] {
  return [...new Set(names.map(name => name.split('/')[1]!))];
}

function partsOf(name: string): Group[] {
  const device = deviceType(name)!;
  const isLarge = (direction: Direction) =>
    frameLimits(device, device.features, direction).maxFrame === LARGE_FRAME;
  const sizes = LENGTHS.flatMap(length => DIRECTIONS.map(direction => [direction, length] as const));
  for (const direction of DIRECTIONS.filter(isLarge)) sizes.push([direction, LARGE_FRAME]);
  return sizes.flatMap(([direction, length]) => {
    const path = `parts/${name}/${direction}/${length}`;
    return [
      { names: [path], run: () => measureParts(device, direction, length) },
      { names: [`${path}/kernel`], run: () => measureKernel(device, direction, length) },
    ];
  });
}

function twoProcesses(device: string): Group[] {
  return LENGTHS.flatMap(length =>
    DIRECTIONS.map(direction => ({
      names: [`${direction === 'tx' ? 'tx-sink' : 'source-rx'}/${device}/${length}`],
      run: async () => [await measureRing(device, direction, length)],
    })),
  );
}

function besideDpdk(format: VirtioFormat): Group[] {
  return VHOST_LENGTHS.flatMap(length =>
    DIRECTIONS.map(direction => ({
      names: [`vhost-user/${format}/${length}/${direction}`],
      run: () => measureVhostUser(format, length, direction),
    })),
  );
}
