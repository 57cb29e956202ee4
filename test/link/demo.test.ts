/** `polynic demo` as its user runs it: what it prints, and that nothing of it is left, however it ends. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import type { DemoReport } from '../../src/demo/report.js';
import { deviceTypeNames } from '../../src/ring/registry.js';
import {
  checkFrames,
  checkReport,
  checkTraffic,
  checkUpgrades,
  demo,
  eventually,
  isRoot,
  NOBODY,
  nobodyCanRun,
  PROGRAM,
  upgradeEverySecond,
} from './demo-run.js';

const BAD_OPTIONS = [
  ['--seconds', '0'],
  ['--seconds', 'x'],
  ['--device', 'x'],
  ['--upgrade-every', '0'],
  ['--upgrade-every', 'x'],
  ['--upgrade-every', '6', '--seconds', '10'],
  ['much'],
];

test('as root: real traffic, every byte and number right, nothing left', async t => {
  if (!isRoot) return t.skip('needs root: it makes network namespaces');
  const report = await checkReport(demo(t, [], ['--json', '--seconds', '2']));
  checkTraffic(report);
  assert.deepEqual(report.upgrades, { count: 0, refused: 0, blackout_us: null });
});

test('as root, with the other ring formats, at the same time: real traffic', async t => {
  if (!isRoot) return t.skip('needs root: it makes network namespaces');
  const others = deviceTypeNames.filter(name => name !== 'sring');
  const runs = others.map(device => demo(t, [], ['--json', '--seconds', '1', '--device', device]));
  for (const [i, run] of runs.entries()) checkTraffic(await checkReport(run, others[i]!));
});

test('as nobody in particular: real traffic where that is allowed, else numbered frames', async t => {
  if (isRoot && !nobodyCanRun()) return t.skip('setpriv is not there, or others may not read these files');
  const report = await checkReport(demo(t, isRoot ? NOBODY : [], ['--json', '--seconds', '1']));
  if (report.link === 'tap') checkTraffic(report);
  else checkFrames(report);
});

test('as nobody, where /dev/net/tun is open to everybody: real traffic', async t => {
  if (!isRoot || !nobodyCanRun()) return t.skip('needs root, setpriv, and files that others may read');
  // A file system of its own, in which the device has other permissions.
  const open = `mount -t tmpfs none /mnt && mknod /mnt/tun c 10 200 && chmod 666 /mnt/tun
    mount --bind /mnt/tun /dev/net/tun && exec "$@"`;
  const prefix = ['unshare', '--mount', 'sh', '-ec', open, 'sh', ...NOBODY];
  const [command, ...args] = [...prefix, 'unshare', '-Urn', 'true'];
  const trial = spawnSync(command!, args, { encoding: 'utf8' });
  if (trial.status !== 0) return t.skip(`this machine does not let us: ${trial.stderr}`);
  checkTraffic(await checkReport(demo(t, prefix, ['--json', '--seconds', '1'])));
});

test('an upgrade every second, under load: nothing lost, nothing sent again', async t => {
  if (!isRoot) return t.skip('needs root: it makes network namespaces');
  await upgradeEverySecond(t, 6);
});

const UPGRADES = ['--json', '--seconds', '3', '--upgrade-every', '0.3'];

test('as nobody in particular: upgrades under real traffic or numbered frames', async t => {
  if (isRoot && !nobodyCanRun()) return t.skip('setpriv is not there, or others may not read these files');
  const report = await checkReport(demo(t, isRoot ? NOBODY : [], UPGRADES));
  checkUpgrades(report, 4);
  if (report.link === 'ports') checkFrames(report);
});

test('where there are no TAPs: upgrades under numbered frames', async t => {
  const prefix = ['unshare', '--mount', 'sh', '-ec', 'mount -t tmpfs none /dev/net && exec "$@"', 'sh'];
  const { status, stderr } = spawnSync(prefix[0]!, [...prefix.slice(1), 'true'], { encoding: 'utf8' });
  if (status !== 0) return t.skip(`this machine does not let us hide /dev/net: ${stderr}`);
  const report = await checkReport(demo(t, prefix, UPGRADES));
  checkUpgrades(report, 4);
  checkFrames(report);
});

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  test(`${signal} in the middle: it ends in good order and says why`, async t => {
    const run = demo(t, [], ['--seconds', '20']);
    await run.line('packet'); // the heading: the first phase comes now
    await eventually(() => run.alive().length >= 3, `demo, guest and backend run: ${run.alive()}`);
    run.process.kill(signal);
    assert.deepEqual(await run.exit, [signal === 'SIGINT' ? 130 : 143, null]);
    assert.equal(await run.stderr, `polynic: stopped by ${signal}\n`);
  });
}

for (const who of ['us', 'nobody']) {
  test(`killed in the middle, run by ${who}: its processes die with it`, async t => {
    if (who === 'nobody' && !(isRoot && nobodyCanRun()))
      return t.skip('needs root, setpriv, and files that others may read');
    const run = demo(t, who === 'nobody' ? NOBODY : [], ['--seconds', '20']);
    await run.line('packet');
    await eventually(() => run.alive().length >= 3, `demo, guest and backend run: ${run.alive()}`);
    run.process.kill('SIGKILL');
    assert.deepEqual(await run.exit, [null, 'SIGKILL']);
    await eventually(() => run.alive().length === 0, `still there: ${run.alive()}`);
  });
}

test('its backend is killed: one clear line, exit code 1', async t => {
  const run = demo(t, [], ['--json', '--seconds', '20']);
  const isBackend = (pid: number) => readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes('\0serve\0');
  let backend: number | undefined;
  await eventually(() => (backend = run.alive().find(isBackend)) !== undefined, 'no backend');
  process.kill(backend!, 'SIGKILL');
  assert.deepEqual(await run.exit, [1, null]);
  assert.match(await run.stderr, /^polynic: the backend process ended \(SIGKILL\)[^\n]*\n$/);
  const report = JSON.parse(await run.stdout) as DemoReport;
  assert.equal(report.failures.length, 1);
});

test('options that cannot be: one line, exit code 2', () => {
  for (const options of BAD_OPTIONS) {
    const { status, stdout, stderr } = spawnSync(process.execPath, [PROGRAM, 'demo', ...options], {
      encoding: 'utf8',
    });
    assert.deepEqual([status, stdout], [2, ''], options.join(' '));
    assert.match(stderr, /^polynic: [^\n]+\n$/);
  }
});
