// Runs the compiled tests. `test.mjs` runs the everyday ones; `test.mjs soak`, `test.mjs hostile` and `test.mjs vm` the long ones of that folder, and
// those of other folders that have a long setting of that kind; any other argument is a part of a file's path: `test.mjs pcap`.
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const wanted = process.argv.slice(2);
const long = ['soak', 'hostile', 'vm'].find(kind => wanted.includes(kind));
const parts = wanted.filter(word => word !== long);

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

const { status, error } = spawnSync(process.execPath, ['--test', '--test-concurrency=2', ...files], {
  cwd: root,
  stdio: 'inherit',
  env: { ...process.env, POLYNIC_LONG: long ?? '' },
});
if (error) throw error;
process.exit(status ?? 1);
