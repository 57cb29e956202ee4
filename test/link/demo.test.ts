/** `polynic demo` as its user runs it: what it prints, and that nothing of it is left, however it ends. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { DemoReport } from '../../src/demo/report.js';

const PROGRAM = fileURLToPath(new URL('../../../bin/polynic.js', import.meta.url));
const NOBODY = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'];
const isRoot = process.geteuid!() === 0;

/** Everything of a demo that others can see carries this mark in its environment. */
let runs = 0;

interface Demo {
  readonly process: ChildProcess;
  readonly stdout: Promise<string>;
  readonly stderr: Promise<string>;
  readonly exit: Promise<[number | null, NodeJS.Signals | null]>;
  /** Resolves with the first line of output that has `words`. */
  line(words: string): Promise<string>;
  /** Its processes, itself included. */
  alive(): number[];
}

/** Starts the demo behind `prefix`, and checks when the test ends that nothing of it is left. */
function demo(t: TestContext, prefix: readonly string[], options: readonly string[]): Demo {
  const mark = `POLYNIC_TEST_RUN=${process.pid}.${runs++}`;
  const temporary = mkdtempSync(join(tmpdir(), 'polynic-demo-test-'));
  chmodSync(temporary, 0o777);
  const before = { interfaces: interfaces(), namespaces: namedNamespaces() };
  const [command, ...args] = [...prefix, process.execPath, PROGRAM, 'demo', ...options];
  const [name, value] = mark.split('=') as [string, string];
  const child = spawn(command!, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, [name]: value, TMPDIR: temporary },
  });
  const lines = createInterface(child.stdout);
  const alive = () => processesWith(mark);
  t.after(async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
    await eventually(() => alive().length === 0, `processes left: ${alive()}`);
    await eventually(() => interfaces() === before.interfaces, 'interfaces left');
    assert.equal(namedNamespaces(), before.namespaces);
    rmdirSync(temporary); // not empty: files are left
  });
  return {
    process: child,
    stdout: text(child.stdout),
    stderr: text(child.stderr),
    exit: once(child, 'close') as Demo['exit'],
    alive,
    line: words =>
      new Promise((resolve, reject) => {
        lines.on('line', line => line.includes(words) && resolve(line));
        lines.on('close', () => reject(new Error(`the output ended without "${words}"`)));
      }),
  };
}

function processesWith(mark: string): number[] {
  return readdirSync('/proc')
    .filter(name => /^\d+$/.test(name))
    .filter(pid => {
      try {
        return readFileSync(`/proc/${pid}/environ`, 'latin1').split('\0').includes(mark);
      } catch {
        return false; // gone, or somebody else's
      }
    })
    .map(Number);
}

function interfaces(): string {
  return Object.keys(networkInterfaces()).concat(readdirSync('/sys/class/net')).sort().join(' ');
}

function namedNamespaces(): string {
  try {
    return readdirSync('/run/netns').sort().join(' ');
  } catch {
    return '';
  }
}

async function eventually(reached: () => boolean, complaint: string): Promise<void> {
  for (const end = performance.now() + 5000; !reached(); ) {
    if (performance.now() > end) assert.fail(complaint);
    await new Promise(resolve => setTimeout(resolve, 10));
  }
}

/** Checks what holds for every run that went well. */
async function checkReport(run: Demo): Promise<DemoReport> {
  const [stdout, stderr, exit] = await Promise.all([run.stdout, run.stderr, run.exit]);
  assert.deepEqual([exit, stderr], [[0, null], '']);
  const report = JSON.parse(stdout) as DemoReport;
  assert.equal(report.device, 'sring');
  assert.deepEqual(report.leaks, { fds: 0, mappings: 0, buffers: 0 });
  assert.deepEqual(report.upgrades, { count: 0, refused: 0, blackout_us: null });
  assert.deepEqual(report.failures, []);
  return report;
}

function checkTraffic(report: DemoReport): void {
  assert.equal(report.link, 'tap');
  const { sent, received, rtt_us } = report.ping!;
  assert.ok(sent > 0 && received === sent, `${received} of ${sent} answered`);
  assert.ok(rtt_us!.p50 > 0 && rtt_us!.p99 >= rtt_us!.p50, JSON.stringify(rtt_us));
  assert.ok(report.tcp_gbps.guest_to_host! > 0 && report.tcp_gbps.host_to_guest! > 0);
  const udp = report.udp!;
  assert.ok(udp.sent > 0 && udp.pps > 0);
  assert.deepEqual([udp.received, udp.lost, udp.reordered], [udp.sent, 0, 0]);
  const { ping, udp: udpSignals } = report.signals;
  assert.ok(ping!.packets >= 2 * sent, 'every request and answer crossed the NIC');
  assert.ok(udpSignals!.packets >= udp.sent, 'every datagram crossed the NIC');
  assert.ok(ping!.kicks_per_packet > 0 && ping!.interrupts_per_packet > 0);
}

function checkFrames({ link, note, frames, ping, udp }: DemoReport): void {
  assert.deepEqual([link, ping, udp], ['ports', null, null]);
  assert.ok(note!.length > 0);
  for (const flow of [frames.guest_to_host!, frames.host_to_guest!]) {
    assert.ok(flow.received > 0 && flow.pps > 0);
    assert.equal(flow.out_of_order, 0);
  }
}

test('as root: real traffic, every byte and number right, nothing left', async t => {
  if (!isRoot) return t.skip('needs root: it makes network namespaces');
  checkTraffic(await checkReport(demo(t, [], ['--json', '--seconds', '3'])));
});

test('as nobody in particular: real traffic where that is allowed, else numbered frames', async t => {
  if (isRoot && !nobodyCanRun()) return t.skip('setpriv is not there, or others may not read these files');
  const report = await checkReport(demo(t, isRoot ? NOBODY : [], ['--json', '--seconds', '2']));
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
  checkTraffic(await checkReport(demo(t, prefix, ['--json', '--seconds', '2'])));
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
  for (const options of [['--seconds', '0'], ['--seconds', 'x'], ['--device', 'x'], ['much']]) {
    const { status, stdout, stderr } = spawnSync(process.execPath, [PROGRAM, 'demo', ...options], {
      encoding: 'utf8',
    });
    assert.deepEqual([status, stdout], [2, ''], options.join(' '));
    assert.match(stderr, /^polynic: [^\n]+\n$/);
  }
});

/** Whether a user without rights could run this program at all. */
function nobodyCanRun(): boolean {
  return spawnSync(NOBODY[0]!, [...NOBODY.slice(1), process.execPath, PROGRAM, '--version']).status === 0;
}
