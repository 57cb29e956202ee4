/** `polynic demo` as its user runs it, for tests: what it prints, and that nothing of it is left, however it ends. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { networkInterfaces, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { DemoReport } from '../../src/demo/report.js';
import { CpuShare } from './cpu.js';

export const PROGRAM = fileURLToPath(new URL('../../../bin/polynic.js', import.meta.url));
export const NOBODY = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'];
export const isRoot = process.geteuid!() === 0;

/** A machine of which others use more than this has no rate of ours to tell. */
const MOST_FOR_OTHERS = 0.2;

/** Everything of a demo that others can see carries this mark in its environment. */
let runs = 0;

export interface Demo {
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
export function demo(t: TestContext, prefix: readonly string[], options: readonly string[]): Demo {
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

export async function eventually(reached: () => boolean, complaint: string): Promise<void> {
  for (const end = performance.now() + 5000; !reached(); ) {
    if (performance.now() > end) assert.fail(complaint);
    await new Promise(resolve => setTimeout(resolve, 10));
  }
}

/** Checks what holds for every run that went well. */
export async function checkReport(run: Demo, device = 'sring'): Promise<DemoReport> {
  const [stdout, stderr, exit] = await Promise.all([run.stdout, run.stderr, run.exit]);
  assert.deepEqual([exit, stderr], [[0, null], ''], stdout);
  const report = JSON.parse(stdout) as DemoReport;
  assert.equal(report.device, device);
  assert.deepEqual(report.leaks, { fds: 0, mappings: 0, buffers: 0 });
  assert.deepEqual(report.failures, []);
  return report;
}

export function checkTraffic(report: DemoReport): void {
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

/** At least `count` changes of contract, none refused, and every one was timed. */
export function checkUpgrades({ upgrades }: DemoReport, count: number): void {
  assert.ok(upgrades.count >= count, `${upgrades.count} upgrades`);
  assert.deepEqual([upgrades.refused, upgrades.refusals], [0, []]);
  const { p50, p99, max } = upgrades.blackout_us!;
  assert.ok(p50 > 0 && p99 >= p50 && max >= p99, JSON.stringify(upgrades));
  const bars = upgrades.histogram!.reduce((sum, bar) => sum + bar.count, 0);
  assert.equal(bars, upgrades.count, 'every upgrade is in the histogram');
}

/**
 * Runs the demo for so long with an upgrade every second, and checks that nothing was lost; on a machine that is ours, that the pace was kept
 * and TCP never noticed.
 */
export async function upgradeEverySecond(t: TestContext, seconds: number): Promise<void> {
  const cpu = new CpuShare([]);
  const report = await checkReport(
    demo(t, [], ['--json', '--seconds', `${seconds}`, '--upgrade-every', '1']),
  );
  const others = cpu.others();
  checkUpgrades(report, Math.floor(seconds * 0.75));
  const { upgrades, udp, tcp_gbps, tcp_retransmissions } = report;
  assert.ok(upgrades.tx_us && upgrades.rx_us, 'packets in and out were timed');
  assert.deepEqual([udp!.lost, udp!.reordered, udp!.received], [0, 0, udp!.sent]);
  assert.ok(tcp_gbps.guest_to_host! > 0 && tcp_gbps.host_to_guest! > 0);
  const { p50, p99, max } = upgrades.blackout_us!;
  t.diagnostic(`${upgrades.count} upgrades: blackout p50 ${p50} us, p99 ${p99} us, longest ${max} us`);
  t.diagnostic(`${udp!.pps} datagrams a second; ${Math.round(others * 100)} % of the machine used by others`);
  await t.test('at the full pace, and TCP sends nothing again', t => {
    // TCP's timers and our pace are at the mercy of whoever has the processors.
    if (others > MOST_FOR_OTHERS)
      return t.skip(
        `others used ${Math.round(others * 100)} % of the machine: ${JSON.stringify({ udp, tcp_retransmissions })}`,
      );
    assert.ok(udp!.pps >= 50_000, `${udp!.pps} datagrams a second`);
    assert.deepEqual(tcp_retransmissions, { guest_to_host: 0, host_to_guest: 0 });
  });
}

export function checkFrames({ link, note, frames, ping, udp }: DemoReport): void {
  assert.deepEqual([link, ping, udp], ['ports', null, null]);
  assert.ok(note!.length > 0);
  for (const flow of [frames.guest_to_host!, frames.host_to_guest!]) {
    assert.ok(flow.received > 0 && flow.pps > 0);
    assert.equal(flow.out_of_order, 0);
  }
}

/** Whether a user without rights could run this program at all. */
export function nobodyCanRun(): boolean {
  return spawnSync(NOBODY[0]!, [...NOBODY.slice(1), process.execPath, PROGRAM, '--version']).status === 0;
}
