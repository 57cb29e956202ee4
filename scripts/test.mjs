// Runs the compiled tests. `test.mjs` runs the everyday ones; `test.mjs soak`, `test.mjs hostile` and `test.mjs vm` the long ones of that folder;
// `test.mjs vm brief` is a few of those; any other argument is a part of a file's path: `test.mjs pcap`. Files that fail are run once more, one at a time: see below.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { fileURLToPath } from 'node:url';

/** More failures than that are nobody's bad luck. */
const AGAIN = 8;

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const wanted = process.argv.slice(2);
const long = ['soak', 'hostile', 'vm'].find(kind => wanted.includes(kind));
/** What takes long is left out, also of the tests of such a folder. */
const brief = wanted.includes('brief');
const parts = wanted.filter(word => word !== long && word !== 'brief');

if (process.env.CI || process.env.POLYNIC_SETUP === '1') {
  const { status } = spawnSync('bash', [join(root, 'scripts/setup-system.sh')], { stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}

const files = ['dist/src', 'dist/test']
  .flatMap(folder => readdirSync(join(root, folder), { recursive: true }).map(name => join(folder, name)))
  .filter(name => name.endsWith('.test.js'))
  .filter(name => ['soak', 'vm'].every(kind => name.includes(`/test/${kind}/`) === (long === kind)))
  .filter(name => long === undefined || name.includes(`/test/${long}/`))
  .filter(name => parts.every(part => name.includes(part)))
  .sort();
if (files.length === 0) {
  console.error(`no test file matches ${wanted.join(' ')}`);
  process.exit(2);
}

process.chdir(root);
process.env.POLYNIC_LONG = brief ? '' : (long ?? '');

/** Runs test files, so many at a time. Resolves with those that have failed. */
async function runAll(files, concurrency) {
  const failed = new Set();
  const results = run({ files, concurrency, timeout: Number.POSITIVE_INFINITY });
  results.on('test:fail', ({ file }) => failed.add(file));
  for await (const text of results.compose(new spec())) process.stdout.write(text);
  return [...failed];
}

let failed = await runAll(files, 2);
if (failed.length > 0 && failed.length <= AGAIN) {
  // Most tests have threads, processes and timers of their own, and real kernels between them: what fails beside others may be the machine's fault.
  console.log(`\n${failed.length} test files have failed beside others; again, each by itself:`);
  failed = await runAll(failed, 1);
}
for (const file of failed) console.error(`failed: ${relative(root, file)}`);
process.exit(failed.length === 0 ? 0 : 1);
