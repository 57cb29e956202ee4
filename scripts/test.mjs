// Runs the compiled tests. `test.mjs` runs the everyday ones; `test.mjs soak`, `test.mjs hostile` and `test.mjs vm` the long ones of that folder, and
// those of other folders that have a long setting of that kind; `test.mjs vm brief` is a few of those; any other argument is a part of a file's path:
// `test.mjs pcap`. Where several run at a time, files that fail are run once more by themselves: see below.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { fileURLToPath } from 'node:url';

/** More failures than that are nobody's bad luck. */
const AGAIN = 8;
/** How many files at a time. Most everyday tests wait part of the time; virtual machines do not, and a soak's traffic and clock are to be its own. */
const AT_ONCE = {
  everyday: availableParallelism() + 1,
  hostile: availableParallelism(),
  vm: availableParallelism(),
  soak: 1,
};
/** These hold the program to a time limit: nothing else runs beside them. */
const TIMED = /time\.test\.js$/;

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

/** Whether a test says that it can be longer: it compares POLYNIC_LONG with that word. */
const hasLongSetting = name => readFileSync(join(root, name), 'utf8').includes(`POLYNIC_LONG === '${long}'`);

const files = ['dist/src', 'dist/test']
  .flatMap(folder => readdirSync(join(root, folder), { recursive: true }).map(name => join(folder, name)))
  .filter(name => name.endsWith('.test.js'))
  .filter(name => ['soak', 'vm'].every(kind => long === kind || !name.includes(`/test/${kind}/`)))
  .filter(name => long === undefined || name.includes(`/test/${long}/`) || hasLongSetting(name))
  .filter(name => parts.every(part => name.includes(part)))
  .sort();
if (files.length === 0) {
  console.error(`no test file matches ${wanted.join(' ')}`);
  process.exit(2);
}

process.chdir(root);
process.env.POLYNIC_LONG = brief ? '' : (long ?? '');

const totals = { tests: 0, failed: 0, skipped: 0 };

/** Runs one test file. Says how it went, all that it printed when it has failed. Resolves with whether it has passed. */
async function runFile(file) {
  const begun = performance.now();
  const [skipped, failed] = [[], []];
  let tests = 0;
  const results = run({ files: [file], concurrency: 1, timeout: Number.POSITIVE_INFINITY });
  results.on('test:pass', ({ name, skip, details }) => {
    if (details.type !== 'suite') tests++;
    if (skip !== undefined) skipped.push(`${name}: ${skip}`);
  });
  results.on('test:fail', ({ name }) => failed.push(name));
  let text = '';
  for await (const part of results.compose(new spec())) text += part;
  totals.tests += tests + failed.length;
  totals.failed += failed.length;
  totals.skipped += skipped.length;
  const took = `${((performance.now() - begun) / 1000).toFixed(1)} s`;
  console.log(`${failed.length > 0 ? '✖' : '✔'} ${file}: ${tests} tests, ${took}`);
  for (const what of skipped) console.log(`  skipped: ${what}`);
  if (failed.length > 0) console.log(text);
  return failed.length === 0;
}

/** Runs test files, so many at a time. Resolves with those that have failed. */
async function runAll(files, atOnce) {
  const left = [...files];
  const failed = [];
  const turn = async () => {
    for (let file = left.shift(); file !== undefined; file = left.shift()) {
      if (!(await runFile(file))) failed.push(file);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, turn));
  return failed;
}

const timed = files.filter(file => TIMED.test(file));
let failed = await runAll(
  files.filter(file => !timed.includes(file)),
  AT_ONCE[long ?? 'everyday'],
);
const wasBeside = AT_ONCE[long ?? 'everyday'] > 1 && long !== 'hostile'; // what a soak or a mutation finds once is found
let shaky = [];
if (wasBeside && failed.length > 0 && failed.length <= AGAIN) {
  // Most tests have threads, processes and timers of their own, and real kernels between them: what fails beside others may be the machine's fault.
  console.log(`\n${failed.length} test files have failed beside others; again, each by itself:`);
  const again = await runAll(failed, 1);
  shaky = failed.filter(file => !again.includes(file));
  failed = again;
}
failed.push(...(await runAll(timed, 1)));
console.log(`\n${totals.tests} tests, ${totals.failed} failures, ${totals.skipped} skipped`);
for (const file of shaky) console.log(`passed only by itself: ${file}`);
for (const file of failed) console.error(`failed: ${file}`);
process.exit(failed.length === 0 ? 0 : 1);
