/**
 * The machine of the bench's cases vm-tcp (src/bench/vm-tcp.ts): `node tcp-bench.js FORMAT WAY…` boots it, measures, and prints a VmReport.
 *
 * ```
 *   guest                                             two namespaces on the host, alike
 *   eth0 10.9.0.2 ── vhost-user ── polynic serve ── TAP ── hst0 10.9.0.1   iperf3 -s
 *   eth1 10.9.0.2 ── QEMU itself ────────────────── TAP ── hst0 10.9.0.1   iperf3 -s
 * ```
 * One of the two is up at a time, so the guest needs no routes.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import type { VirtioFormat } from '../../../src/bench/vhost-user.js';
import type { VmReport, VmSample, Way } from '../../../src/bench/vm-tcp.js';
import { Cable, configure, HOST_IP } from '../../../src/vm/cable.js';
import { IPERF3 } from '../../../src/vm/image.js';
import type { QemuName } from '../../../src/vm/qemu.js';
import { FIRST_FD, Vm } from '../../../src/vm/vm.js';
import { processSeconds } from '../../link/cpu.js';
import { Backend } from './backend.js';
import { cannotBoot } from './needs.js';

const QEMU: QemuName = '11.1';
const ROUNDS = 5;
const SECONDS = 2;
const NICS = [
  ['polynic', 'eth0'],
  ['tap', 'eth1'],
] as const;

/** iperf3's server at the host's end of a cable; it dies with us. */
async function serveIperf({ netns }: Cable): Promise<ChildProcess> {
  const words = [`--net=/proc/${process.pid}/fd/${netns.fd}`, IPERF3, '-s', '--forceflush'];
  const server = spawn('setpriv', ['--pdeathsig', 'SIGKILL', 'nsenter', ...words], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(server.stdout!, 'data');
  return server;
}

async function transfer(vm: Vm, way: Way): Promise<{ bytes: number; seconds: number }> {
  const said = await vm.run(`iperf3 -c ${HOST_IP} -t ${SECONDS} -J ${way === 'to-guest' ? '-R' : ''}`);
  const { end } = JSON.parse(said) as { end: { sum_received: { bytes: number; seconds: number } } };
  return end.sum_received;
}

async function measure(format: VirtioFormat, ways: readonly Way[]): Promise<VmSample[]> {
  const backend = await Backend.start({ packed: format === 'packed' });
  const cable = new Cable();
  const servers: ChildProcess[] = [];
  let vm: Vm | null = null;
  try {
    for (const { cable: one } of [backend, { cable }]) servers.push(await serveIperf(one));
    const fds = cable.openTap();
    const properties = format === 'packed' ? ['packed=on'] : [];
    const tap = { kind: 'tap', fds: [FIRST_FD], properties } as const;
    vm = await Vm.start({ qemu: QEMU, image: 'iperf3', fds, nics: [backend.nic, tap] });
    const samples: VmSample[] = [];
    for (let round = 0; round < ROUNDS; round++) {
      for (const [nic, name] of NICS) {
        await configure(vm, name);
        for (const way of ways) {
          const spent = () => ({
            qemu: processSeconds(vm!.pid),
            backend: nic === 'polynic' ? processSeconds(backend.program.pid) : 0,
          });
          const before = spent();
          const { bytes, seconds } = await transfer(vm, way);
          const after = spent();
          const cpu = { qemu: after.qemu - before.qemu, backend: after.backend - before.backend };
          samples.push({ nic, way, bytes, seconds, cpu });
        }
        await vm.run(`ip addr flush dev ${name} && ip link set ${name} down`);
      }
    }
    await vm.stop();
    await backend.close();
    return samples;
  } catch (error) {
    await vm?.stop();
    await backend.abandon();
    throw error;
  } finally {
    for (const server of servers) server.kill('SIGKILL');
    cable.close();
  }
}

const [format, ...ways] = process.argv.slice(2) as [VirtioFormat, ...Way[]];
const missing = cannotBoot(QEMU) ?? (existsSync(IPERF3) ? null : 'needs iperf3: npm run setup:system');
const report: VmReport = missing ? { missing } : { samples: await measure(format, ways) };
console.log(JSON.stringify(report));
