/**
 * The floors of the house: a folder imports from floors below its own, and the few walls that must have no door at all have none.
 *
 * ```
 *   8  cli  observe  demo  bench  vm
 *   7  accel  vdpa  migration
 *   6  control  pci
 *   5  guest
 *   4  nic
 *   3  ring ◄── port
 *   2  memory  ebpf
 *   1  linux
 *   0  datapath/layout
 * ```
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const SRC = join(ROOT, 'src');

const FLOORS: Readonly<Record<string, number>> = {
  ...{ linux: 1, memory: 2, ebpf: 2, ring: 3, port: 3, nic: 4, guest: 5, control: 6, pci: 6 },
  ...{ accel: 7, vdpa: 7, migration: 7, observe: 8, cli: 8, demo: 8, bench: 8, vm: 8 },
};

/** Neighbours on one floor that may know each other, in this direction only. */
const DOORS = new Set([
  'port → ring', // a port takes batches, which are the rings' side of the datapath
  'control → pci', // a vfio-user server serves a PCI function
  'cli → observe', // the commands of floor 8 start what is there
  'cli → demo',
  'cli → bench',
  'cli → vm',
  'bench → demo', // links are measured on the networks and with the traffic of the demo
  'demo → vm', // the demo's virtual machine
  'bench → vm',
  'demo → observe', // the demo starts commands: this is what they tell who started them
]);

interface Import {
  readonly file: string;
  /** A path below the root, or the name of a package. */
  readonly target: string;
}

function importsOf(file: string): Import[] {
  const source = readFileSync(file, 'utf8');
  const pattern =
    /^\s*(?:import|export)\s(?:[^'"`;]*?\sfrom\s)?['"]([^'"]+)['"]|\bimport\(\s*['"]([^'"]+)['"]/gms;
  return [...source.matchAll(pattern)].map(([, plain, dynamic]) => {
    const target = (plain ?? dynamic)!;
    const path = target.startsWith('.') ? relative(ROOT, resolve(dirname(file), target)) : target;
    return { file: relative(ROOT, file), target: path };
  });
}

/** What is shipped and runs: tests and what only they use may look anywhere. */
const imports = readdirSync(SRC, { recursive: true, encoding: 'utf8' })
  .filter(name => name.endsWith('.ts') && !/(\.test|\/testing|\.d)\.ts$/.test(name))
  .flatMap(name => importsOf(join(SRC, name)));

const folderOf = (path: string): string | undefined => /^src\/([^/]+)\//.exec(path)?.[1];

test('every folder stands on a floor', () => {
  const folders = readdirSync(SRC, { withFileTypes: true }).filter(entry => entry.isDirectory());
  assert.ok(folders.length >= 8);
  for (const { name } of folders) assert.ok(FLOORS[name], `src/${name} has no floor`);
  assert.ok(imports.length > 200, `${imports.length} imports found`);
});

test('imports go down', () => {
  const wrong = imports.filter(({ file, target }) => {
    const [from, to] = [folderOf(file)!, folderOf(target)];
    if (to === undefined || from === to) return false;
    const module = target.slice('src/'.length, -'.js'.length);
    return !(FLOORS[to]! < FLOORS[from]! || DOORS.has(`${from} → ${to}`) || DOORS.has(`${from} → ${module}`));
  });
  assert.deepEqual(
    wrong.map(({ file, target }) => `${file} imports ${target}`),
    [],
  );
});

test('nothing but src and the layout of the datapath is imported, and packages', () => {
  const elsewhere = imports.filter(
    ({ target }) =>
      /^(\.|datapath|test|scripts|bench|bin|programs)/.test(target) && target !== 'datapath/layout.js',
  );
  assert.deepEqual(elsewhere, []);
});

test('the eBPF library knows nothing of the rest, and no package', () => {
  const foreign = imports.filter(
    ({ file, target }) =>
      folderOf(file) === 'ebpf' && folderOf(target) !== 'ebpf' && !target.startsWith('node:'),
  );
  assert.deepEqual(foreign, []);
});

test('the kernel is called from one folder', () => {
  const callers = imports.filter(({ target }) => target === 'koffi').map(({ file }) => dirname(file));
  assert.deepEqual([...new Set(callers)], ['src/linux']);
});
