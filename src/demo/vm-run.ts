/**
 * The demo with a virtual machine: stock QEMU, a Debian kernel, and a bpfhv NIC whose contract changes three times while the guest talks.
 *
 * ```
 *   guest (QEMU, software emulation)                                    host
 *   eth0 ══ polynic guest --pci ── VFIO ── PCI device ═ vfio-user ═ polynic serve ══ TAP hst0   servers in this process
 * ```
 * Nothing is installed and nothing is left: the guest lives in memory.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ChildCounters } from '../observe/child-report.js';
import { appears } from '../vm/appears.js';
import { Cable, GUEST_IP, HOST_IP } from '../vm/cable.js';
import { VmError } from '../vm/errors.js';
import { missingFor } from '../vm/needs.js';
import { qemuNamed } from '../vm/qemu.js';
import { Vm } from '../vm/vm.js';
import { Child } from './child.js';
import type { Display } from './display.js';
import { DemoError } from './errors.js';

const QEMU = '11.1';
const BYTES = 20_000_000;
const ECHO_INTERVAL_S = 0.02;
/** In one go: what is on its way at the end of it counts. */
const ECHOES = 25;
/** What the NIC is upgraded to, one after the other. */
const CONTRACTS = ['sring_gso', 'vring_packed', 'sring'] as const;
const FIRST = 'sring';
/** A guest in software emulation takes seconds to verify and compile what is quick elsewhere. */
const UPGRADE_LIMIT_S = 120;

/** An upgrade as the NIC saw it. */
interface Upgraded {
  readonly from: string;
  readonly to: string;
  /** From the request to the swap. */
  readonly ms: number;
}

export interface VmReport {
  readonly qemu: string;
  /** From the start of QEMU. */
  boot_ms: number;
  first_ping_ms: number;
  ping: { sent: number; received: number };
  /** Megabytes a second. */
  tcp_mbytes_s: { to_guest: number; to_host: number } | null;
  upgrades: Upgraded[];
  /** As the guest's driver has measured them: the longer of the waits for a packet out and one in, at each upgrade that packets came after. */
  blackout_ms: number[];
  failures: string[];
}

export interface VmRunOptions {
  readonly verbose: boolean;
  readonly signal: AbortSignal;
  readonly display: Display;
}

/** Boots, talks, upgrades. Throws VmError or DemoError when something is missing, or goes wrong that ends it; what `signal` has as its reason. */
export async function runMachine({ verbose, signal, display }: VmRunOptions): Promise<VmReport> {
  const missing = missingFor(QEMU, { vfioUser: true });
  if (missing) throw new DemoError(missing);
  const report: VmReport = {
    ...{ qemu: qemuNamed(QEMU).version.join('.'), boot_ms: 0, first_ping_ms: 0 },
    ...{ ping: { sent: 0, received: 0 }, tcp_mbytes_s: null, upgrades: [], blackout_ms: [], failures: [] },
  };
  using cable = new Cable();
  const folder = mkdtempSync(join(tmpdir(), 'polynic-demo-'));
  const socket = join(folder, 'nic.sock');
  const words = [
    'serve',
    '--vfio-user',
    socket,
    '--device',
    FIRST,
    '--port',
    cable.port,
    '--control',
    'none',
  ];
  const backend = new Child({ name: 'backend', args: words, verbose });
  try {
    await Promise.race([backend.ended, appears(socket, signal)]);
    signal.throwIfAborted();
    cable.connect();
    const begun = performance.now();
    const nics = [{ kind: 'vfio-user', socket }] as const;
    const vm = await Vm.start({ qemu: QEMU, image: 'node', cpus: 2, iommu: true, nics, signal });
    try {
      report.boot_ms = Math.round(vm.bootMs);
      display.row('guest boots', `${(vm.bootMs / 1000).toFixed(1)} s, QEMU ${report.qemu}`);
      await startDriver(vm);
      await cable.ping(vm, 1);
      report.first_ping_ms = Math.round(performance.now() - begun);
      display.row('first ping', `${(report.first_ping_ms / 1000).toFixed(1)} s after QEMU's start`);
      await upgradeUnderLoad(vm, { cable, backend, report, display });
    } finally {
      await vm.stop();
    }
  } catch (error) {
    signal.throwIfAborted(); // that everything ends then is no news
    throw error;
  } finally {
    rmSync(folder, { recursive: true, force: true });
    await ended(backend, report);
  }
  return report;
}

interface Stage {
  readonly cable: Cable;
  readonly backend: Child;
  readonly report: VmReport;
  readonly display: Display;
}

async function upgradeUnderLoad(vm: Vm, { cable, backend, report, display }: Stage): Promise<void> {
  const before = lossesOf(await backend.counters());
  const upgrades = upgradeAll(backend, report, display);
  const [echoes] = await Promise.all([
    echo(vm, upgrades),
    transferUntil(vm, cable, report, upgrades),
    upgrades,
  ]);
  report.ping = echoes;
  const driver = await driverCounters(vm);
  report.blackout_ms = driver.blackouts!.flatMap(({ tx, rx }) =>
    tx === null && rx === null ? [] : [Math.max(tx ?? 0, rx ?? 0) / 1000],
  );
  const lost = lossesOf(driver) + lossesOf(await backend.counters()) - before;
  if (lost > 0) report.failures.push(`${lost} packets dropped`);
  if (process.env.DBG)
    console.error(JSON.stringify(driver), JSON.stringify(await backend.counters()), before);
  judge(report, display);
}

/** Packets that queues or port could not get rid of. */
function lossesOf({ queues, port }: ChildCounters): number {
  return queues.reduce((sum, { errors, dropped }) => sum + errors + dropped, port.dropped + port.errors);
}

/** The backend ends in good order, and has given everything back. */
async function ended(backend: Child, report: VmReport): Promise<void> {
  try {
    const { fds, mappings, buffers } = await backend.stop();
    if (fds + mappings + buffers > 0)
      report.failures.push(`not given back: ${fds} descriptors, ${mappings} mappings, ${buffers} buffers`);
  } catch (error) {
    report.failures.push((error as Error).message);
  }
}

/** Huge pages, VFIO, our driver, and an address for its interface. */
async function startDriver(vm: Vm): Promise<void> {
  await vm.run(`
    load tun; load vfio
    echo 64 >/proc/sys/vm/nr_hugepages
    for device in /sys/bus/pci/devices/*; do
      [ "$(cat $device/vendor)$(cat $device/device)" = 0x1b360x000e ] && nic=$(basename $device)
    done
    node /polynic/bin/polynic.js guest --pci $nic --netdev tap:eth0 --name nic -v </dev/null >/tmp/guest.log 2>&1 &
    pid=$!
    until ip link show eth0 >/dev/null 2>&1; do alive $pid || { cat /tmp/guest.log >&2; exit 1; }; usleep 20000; done
    ip link set eth0 up; ip addr add ${GUEST_IP}/24 dev eth0
    until grep -q 'device running' /tmp/guest.log; do alive $pid || { cat /tmp/guest.log >&2; exit 1; }; usleep 20000; done`);
}

async function upgradeAll(backend: Child, report: VmReport, display: Display): Promise<void> {
  let from: string = FIRST;
  for (const to of CONTRACTS) {
    const reply = await backend.request({ op: 'upgrade', device: to, timeout: UPGRADE_LIMIT_S });
    if ('error' in reply) throw new DemoError(`upgrade to ${to}: ${reply.error.message}`);
    const { ms } = reply.ok as { ms: number };
    report.upgrades.push({ from, to, ms });
    display.row(`${from} to`, `${to}, in ${ms.toFixed(0)} ms`);
    from = to;
  }
}

/** Pings until `end`; all of them have to come back. */
async function echo(vm: Vm, end: Promise<void>): Promise<VmReport['ping']> {
  const said = vm.run(`
    touch /tmp/pinging
    while [ -e /tmp/pinging ]; do ping -c ${ECHOES} -i ${ECHO_INTERVAL_S} -W 10 ${HOST_IP} | grep transmitted; done`);
  said.catch(() => {}); // the machine may end before
  await end.finally(() => vm.run('rm /tmp/pinging'));
  const counts = [...(await said).matchAll(/(\d+) packets transmitted, (\d+) packets received/g)];
  const sum = (field: 1 | 2) => counts.reduce((total, count) => total + Number(count[field]), 0);
  return { sent: sum(1), received: sum(2) };
}

/** Moves noise both ways, each byte compared, again and again until `end`, and at least once. */
async function transferUntil(vm: Vm, cable: Cable, report: VmReport, end: Promise<void>): Promise<void> {
  let over = false;
  void end
    .catch(() => {})
    .finally(() => {
      over = true;
    });
  do {
    const { toGuest, toHost } = await cable.tcp(vm, BYTES);
    report.tcp_mbytes_s = { to_guest: toGuest, to_host: toHost };
  } while (!over);
}

/** What the driver in the guest has counted. */
async function driverCounters(vm: Vm): Promise<ChildCounters> {
  const counters = JSON.parse(await vm.run('node /polynic/bin/polynic.js stats nic --json')) as ChildCounters;
  if (!counters.blackouts) throw new VmError('VM_GUEST', 'the driver does not say how long packets waited');
  return counters;
}

function judge({ ping, tcp_mbytes_s, blackout_ms, failures }: VmReport, display: Display): void {
  const { to_guest = 0, to_host = 0 } = tcp_mbytes_s ?? {};
  display.row(
    'TCP meanwhile',
    `${to_guest.toFixed(1)} MB/s in, ${to_host.toFixed(1)} MB/s out, every byte right`,
  );
  display.row('pings meanwhile', `${ping.received} of ${ping.sent}`);
  if (blackout_ms.length > 0) display.row('longest blackout', `${Math.max(...blackout_ms).toFixed(1)} ms`);
  if (ping.sent === 0 || ping.received !== ping.sent)
    failures.push(`${ping.sent - ping.received} of ${ping.sent} pings lost`);
}
