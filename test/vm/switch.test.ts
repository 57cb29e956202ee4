/**
 * Guests at a switch, in one process of `polynic serve --config`: two Linux guests on stock QEMU, and a guest of ours that speaks bpfhv.
 *
 * ```
 *   Linux  10.9.0.2 ── virtio, split  ──┐
 *   Linux  10.9.0.3 ── virtio, packed ──┼── switch:lan
 *   TAP    10.9.0.1 ══ polynic guest ── bpfhv ──┘
 * ```
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { Cable, configure, GUEST_IP, shown } from '../../src/vm/cable.js';
import type { VhostUserNic } from '../../src/vm/command-line.js';
import type { QemuName } from '../../src/vm/qemu.js';
import { Vm } from '../../src/vm/vm.js';
import { Program } from '../link/program.js';
import { WITHOUT_OFFLOADS } from './kit/backend.js';
import { LONG, QEMUS, vmTest } from './kit/needs.js';

const MEGABYTES = LONG ? 100 : 20;
const OTHER_IP = '10.9.0.3';
/** Sends so many megabytes, the same ones again and again. */
const SEND = `for i in $(seq ${MEGABYTES}); do cat /tmp/noise; done`;
const TRANSFER_MS = 300_000;

interface Wish {
  readonly queues?: number;
  /** Of the second Linux guest: what the others send it, in large frames and without checksums, is cut and summed on the way. */
  readonly without?: 'offloads';
}

for (const qemu of LONG ? QEMUS : (['11.1'] as const)) {
  for (const wish of LONG ? ([{}, { without: 'offloads' }, { queues: 4 }] satisfies Wish[]) : [{}]) {
    const name = `two Linux guests and one of ours at a switch${Object.keys(wish).length > 0 ? `: ${JSON.stringify(wish)}` : ''}`;
    vmTest(name, qemu, t => atASwitch(t, qemu, wish));
  }
}

async function atASwitch(t: TestContext, qemu: QemuName, { queues = 1, without }: Wish): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'polynic-switch-'));
  const socket = (name: string) => join(folder, `${name}.sock`);
  const config = join(folder, 'nics.json');
  const port = 'switch:lan';
  writeFileSync(
    config,
    JSON.stringify({
      defaults: { control: 'none' },
      nics: [
        { name: 'vm0', port, 'vhost-user': socket('vm0'), connect: true },
        { name: 'vm1', port, 'vhost-user': socket('vm1'), connect: true },
        { name: 'own', port, 'bpfhv-proxy': socket('own'), device: 'sring_gso' },
      ],
    }),
  );
  const cable = new Cable();
  const serve = new Program(['serve', '--config', config, '-v']);
  const netdev = ['--netdev', cable.port, '--mac', cable.mac];
  const own = new Program([
    ...['guest', '--bpfhv-proxy', socket('own'), ...netdev, '--control', 'none', '-v'],
    ...['--child-of', String(process.pid)],
  ]);
  const vms: Vm[] = [];
  try {
    await serve.says(/ is applied: /);
    const nic = (n: number, ...properties: string[]): VhostUserNic => ({
      ...{ kind: 'vhost-user', socket: socket(`vm${n}`), listener: 'qemu', queues, properties },
      mac: `02:00:00:00:00:0${n + 2}`,
    });
    for (const one of [nic(0), nic(1, 'packed=on', ...(without ? WITHOUT_OFFLOADS : []))]) {
      vms.push(await Vm.start({ qemu, nics: [one], cpus: queues }));
    }
    const [vm, other] = vms as [Vm, Vm];
    await configure(vm);
    await configure(other, 'eth0', OTHER_IP);
    await cable.appear(own);
    for (const one of vms) t.diagnostic(await cable.ping(one));
    t.diagnostic(`to ours and back: ${shown(await cable.tcp(vm, MEGABYTES * 1_000_000))}`);
    for (const [from, to, ip] of [
      [vm, other, OTHER_IP],
      [other, vm, GUEST_IP],
    ] as const) {
      const begun = performance.now();
      await betweenGuests(from, to, ip);
      const rate = (MEGABYTES * 1000) / (performance.now() - begun);
      t.diagnostic(`from one Linux guest to the other: ${rate.toFixed(1)} MB/s`);
    }
  } catch (error) {
    t.diagnostic([serve.output, own.output, ...vms.map(({ console }) => console)].join('\n'));
    throw error;
  } finally {
    for (const vm of vms) await vm.stop();
    for (const program of [own, serve]) if (program.alive) await program.end();
    cable.close();
    rmSync(folder, { recursive: true });
  }
  for (const { ending, output } of [own, serve]) assert.equal(ending?.code, 0, output);
}

/** One guest sends, the other listens; each says what it has seen. */
async function betweenGuests(from: Vm, to: Vm, ip: string): Promise<void> {
  const [noise] = await Promise.all([
    from.run(`dd if=/dev/urandom of=/tmp/noise bs=64k count=16 2>/dev/null; (${SEND}) | md5sum`, TRANSFER_MS),
    to.run('rm -f /tmp/never; mkfifo /tmp/never'),
  ]);
  const got = to.run('nc -l -p 5000 <>/tmp/never | md5sum', TRANSFER_MS);
  got.catch(() => {}); // heard below
  await to.run('until netstat -ltn | grep -q :5000; do usleep 20000; done');
  await from.run(`(${SEND}) | nc ${ip} 5000`, TRANSFER_MS);
  assert.equal(await got, noise, `what came to ${ip}`);
}
