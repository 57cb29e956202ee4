// Compiles every programs/*/NAME.bpf.c to NAME.o beside it and prints what came out. The objects are committed, so that nobody
// needs a compiler to run them; programs/clang-version.txt says which one made them.
//
//   node scripts/programs.mjs               rebuild the shipped objects
//   node scripts/programs.mjs --out FOLDER  compile into FOLDER/DEVICE/NAME.o and touch nothing else
//
// An add-on is no device type by itself but makes one of every other: DEVICE/DEVICE_ADDON.o, from its source with the device's as BPFHV_BASE.
//
// The source's name is given without a folder and nothing of the surroundings goes into the object: the same clang makes the same bytes.
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const FLAGS = [
  ...['-target', 'bpf', '-O2', '-std=gnu11', '-ffreestanding'],
  ...['-Wall', '-Wextra', '-Werror'],
  ...['-fno-ident', '-fno-addrsig', '-fno-asynchronous-unwind-tables'],
];

const ADD_ONS = ['seal/seal.bpf.c'];

const folder = join(dirname(fileURLToPath(import.meta.url)), '../programs');
const { values } = parseArgs({ options: { out: { type: 'string' } } });
const out = values.out === undefined ? folder : resolve(values.out);

const clang = (args, cwd) => {
  const { status, error, stdout, stderr } = spawnSync('clang', args, { cwd, encoding: 'utf8' });
  if (error?.code === 'ENOENT') fail('clang is not on the PATH; `npm run setup:system` installs it');
  if (error) throw error;
  if (status !== 0) fail(stderr);
  return stdout;
};

const fail = message => {
  console.error(message.trimEnd());
  process.exit(1);
};

const sources = readdirSync(folder, { recursive: true })
  .filter(name => name.endsWith('.bpf.c'))
  .sort();
const bases = sources.filter(source => !ADD_ONS.includes(source));
const jobs = [
  ...bases.map(source => ({ source, object: source.replace(/\.bpf\.c$/, '.o'), flags: [] })),
  ...ADD_ONS.flatMap(source =>
    bases.map(base => ({
      source,
      object: base.replace(/\.bpf\.c$/, `_${basename(source, '.bpf.c')}.o`),
      flags: [`-DBPFHV_BASE="../${base}"`],
    })),
  ),
];
for (const { source, object, flags } of jobs) {
  const path = join(out, object);
  mkdirSync(dirname(path), { recursive: true });
  clang([...FLAGS, ...flags, '-c', basename(source), '-o', path], dirname(join(folder, source)));
  console.log(`${object}: ${readFileSync(path).length} bytes`);
}

const [version] = clang(['--version']).split('\n');
if (out === folder) writeFileSync(join(folder, 'clang-version.txt'), `${version}\n`);
console.log(version);
