/** The kit itself, on NICs that have nothing of ours in them: what fails here is no fault of a backend. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Cable, configure, shown } from '../../src/vm/cable.js';
import { FIRST_FD, Vm } from '../../src/vm/vm.js';
import { LONG, QEMUS, vmTest } from './kit/needs.js';

const BYTES = 20_000_000;
const inherited = (fds: readonly number[]): number[] => fds.map((_, n) => FIRST_FD + n);

/** Everyday, what does not depend on the QEMU is looked at once. */
const EVERYDAY = '11.1';

for (const qemu of QEMUS) {
  vmTest("a guest on QEMU's own TAP pings and moves TCP both ways", qemu, async t => {
    using cable = new Cable();
    const fds = cable.openTap();
    await using vm = await Vm.start({ qemu, fds, nics: [{ kind: 'tap', fds: inherited(fds) }] });
    t.diagnostic(`QEMU ${vm.qemu.version.join('.')} booted in ${Math.round(vm.bootMs)} ms`);
    await configure(vm);
    t.diagnostic(await cable.ping(vm));
    t.diagnostic(shown(await cable.tcp(vm, BYTES)));
  });

  if (!LONG && qemu !== EVERYDAY) continue;

  vmTest("two queues of QEMU's own TAP", qemu, async t => {
    using cable = new Cable();
    const fds = cable.openTap(2);
    await using vm = await Vm.start({
      qemu,
      fds,
      cpus: 2,
      nics: [{ kind: 'tap', queues: 2, fds: inherited(fds) }],
    });
    await configure(vm);
    assert.equal((await vm.run('ls -d /sys/class/net/eth0/queues/tx-* | wc -l')).trim(), '2');
    t.diagnostic(shown(await cable.tcp(vm, BYTES, 4)));
  });

  vmTest(
    'a script that fails says so, several run at once, and a machine that dies is no hang',
    qemu,
    async () => {
      await using vm = await Vm.start({ qemu });
      assert.deepEqual(await vm.try('echo out; echo err >&2; exit 3'), {
        code: 3,
        stdout: 'out\n',
        stderr: 'err\n',
      });
      await assert.rejects(vm.run('false'), /in the guest: false/);
      // Each of the two waits for the other.
      const meet = (mine: string, other: string) =>
        `mkfifo /tmp/${mine}; until [ -p /tmp/${other} ]; do usleep 1000; done; echo ${mine}`;
      assert.deepEqual(await Promise.all([vm.run(meet('a', 'b')), vm.run(meet('b', 'a'))]), ['a\n', 'b\n']);
      await assert.rejects(vm.monitor.execute('device_del', { id: 'nobody' }), { code: 'VM_QMP' });
      const running = vm.run('while true; do sleep 1; done');
      process.kill(vm.pid, 'SIGKILL');
      await assert.rejects(running, /ended/);
    },
  );

  vmTest('a NIC is plugged in and out, and a running guest moves', qemu, async () => {
    const folder = mkdtempSync(join(tmpdir(), 'polynic-vm-'));
    try {
      await using source = await Vm.start({ qemu });
      await using target = await Vm.start({ qemu, incoming: true });
      await source.monitor.execute('device_add', { driver: 'virtio-net-pci', id: 'late', bus: 'port0' });
      await source.run('until [ -d /sys/class/net/eth0 ]; do usleep 10000; done');
      const gone = source.monitor.event(
        ({ event, data }) => event === 'DEVICE_DELETED' && data.device === 'late',
      );
      await source.monitor.execute('device_del', { id: 'late' });
      await gone;
      await source.run('[ ! -d /sys/class/net/eth0 ] && echo here >/tmp/trace');
      const waiting = source.run('until [ -e /tmp/moved ]; do usleep 10000; done; cat /tmp/trace');
      await source.migrateTo(target, join(folder, 'migration.sock'));
      await source.stop();
      await target.run('touch /tmp/moved');
      assert.equal(await waiting, 'here\n');
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}

vmTest('polynic runs in a guest', EVERYDAY, async t => {
  await using vm = await Vm.start({ qemu: EVERYDAY, image: 'node', cpus: 2 });
  t.diagnostic(`booted in ${Math.round(vm.bootMs)} ms`);
  assert.match(await vm.run('node --version'), /^v\d+/);
  assert.match(await vm.run('node /polynic/bin/polynic.js --version'), /^\d+\.\d+\.\d+\n$/);
});
