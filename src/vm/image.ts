/**
 * What a guest boots: the kernel that `setup:system` fetched, and an archive that becomes its root file system, in memory.
 *
 * ```
 *   tiny   busybox, an init script, virtio and network modules: 6 MiB, for a guest of 256 MiB
 *   iperf3 the same, and iperf3
 *   node   the first, and this Node.js with its libraries, and polynic at /polynic: for a guest of 1 GiB
 * ```
 * Each is made once per process, on demand, and goes with the process.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Entry, writeCpio } from './cpio.js';
import { VmError } from './errors.js';
import { INIT } from './guest-init.js';
import { KernelModules } from './kernel-modules.js';
import { cachedKernel } from './qemu.js';

export type ImageName = 'tiny' | 'iperf3' | 'node';

export const BUSYBOX = '/bin/busybox';
export const IPERF3 = '/usr/bin/iperf3';
const ROOT = fileURLToPath(new URL('../../..', import.meta.url));

/** Modules by the list that names them in the guest: init loads `boot`, scripts may `load` the others. */
const MODULES: Readonly<Record<string, readonly string[]>> = {
  boot: ['virtio_pci', 'virtio_console', 'virtio_net'],
  tun: ['tun'],
  veth: ['veth'],
  vfio: ['vfio_pci', 'vfio_iommu_type1'],
  vhost_net: ['vhost_net'],
  macvtap: ['macvtap'],
};

/** What each has besides. */
const MORE: Readonly<Record<ImageName, () => Iterable<[string, Entry]>>> = {
  tiny: () => [],
  iperf3: () => program('/bin/iperf3', IPERF3),
  node: nodeTree,
};

const made = new Map<ImageName, string>();

/** The path of an image; it is made when there is none yet. */
export function imagePath(name: ImageName): string {
  const path = made.get(name);
  if (path !== undefined) return path;
  const folder = mkdtempSync(join(tmpdir(), 'polynic-image-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  const image = join(folder, `${name}.cpio`);
  writeCpio(image, new Map([...tinyTree(), ...MORE[name]()]));
  made.set(name, image);
  return image;
}

function* tinyTree(): Generator<[string, Entry]> {
  yield ['/init', { content: INIT }];
  yield ['/bin/busybox', { content: readFileSync(BUSYBOX) }];
  const modules = new KernelModules(cachedKernel()!.modules);
  const files = new Set<string>();
  for (const [list, names] of Object.entries(MODULES)) {
    const paths = modules.inOrder(names);
    for (const path of paths) files.add(path);
    yield [`/modules/${list}`, { content: paths.map(path => `/modules/${basename(path)}\n`).join('') }];
  }
  for (const path of files) yield [`/modules/${basename(path)}`, { content: readFileSync(path) }];
}

function* nodeTree(): Generator<[string, Entry]> {
  yield* program('/bin/node', realpathSync(process.execPath));
  for (const part of ['package.json', 'bin', 'dist', 'programs', 'examples']) {
    yield* copy(join('/polynic', part), join(ROOT, part));
  }
  for (const dependency of packages('polynic', ROOT)) {
    yield* copy(dependency.replace(ROOT, '/polynic/'), dependency);
  }
}

/** A program of this machine with its shared libraries, each where its loader looks for it. */
export function* program(target: string, path: string): Generator<[string, Entry]> {
  yield [target, { content: readFileSync(path) }];
  for (const [library] of execFileSync('ldd', [path], { encoding: 'utf8' }).matchAll(/(?<=\s)\/\S+/g)) {
    yield [library, { content: readFileSync(library) }];
  }
}

function* copy(target: string, source: string): Generator<[string, Entry]> {
  if (!statSync(source).isDirectory()) {
    yield [target, { content: readFileSync(source) }];
    return;
  }
  for (const entry of readdirSync(source, { withFileTypes: true })) {
    if (entry.name === 'node_modules' || /\.(map|d\.ts|md)$/.test(entry.name)) continue;
    if (entry.isDirectory() || entry.isFile())
      yield* copy(join(target, entry.name), join(source, entry.name));
  }
}

/** The folders of the packages that a package needs to run, and those that they need. */
function packages(name: string, folder: string, seen = new Set<string>()): Set<string> {
  const { dependencies = {}, optionalDependencies = {} } = JSON.parse(
    readFileSync(join(folder, 'package.json'), 'utf8'),
  ) as { dependencies?: Record<string, string>; optionalDependencies?: Record<string, string> };
  for (const needed of Object.keys({ ...dependencies, ...optionalDependencies })) {
    const found = [join(folder, 'node_modules', needed), join(ROOT, 'node_modules', needed)].find(existsSync);
    if (found === undefined) {
      if (needed in optionalDependencies) continue; // for another kind of machine
      throw new VmError('VM_IMAGE', `${name} needs ${needed}, which is not installed`);
    }
    if (seen.has(found)) continue;
    seen.add(found);
    packages(needed, found, seen);
  }
  return seen;
}
