/** `polynic vm` as people run it: a guest with two NICs of ours, a backend that dies, and an end that leaves nothing. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Agent } from '../../src/vm/agent.js';
import { Cable, GUEST_IP, HOST_IP } from '../../src/vm/cable.js';
import { PORT_NAME } from '../../src/vm/guest-init.js';
import { imagePath } from '../../src/vm/image.js';
import { cachedKernel, qemuNamed } from '../../src/vm/qemu.js';
import { Program } from '../link/program.js';
import { vmTest } from './kit/needs.js';

/** The processes that a process has started. */
function childrenOf(pid: number): number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1')
    .trim()
    .split(' ')
    .filter(Boolean)
    .map(Number);
}

const isBackend = (pid: number): boolean =>
  readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes('\0serve\0');

vmTest('polynic vm', '11.1', async t => {
  using cable = new Cable();
  const folder = mkdtempSync(join(tmpdir(), 'polynic-vm-test-'));
  const socket = join(folder, 'agent.sock');
  const machine = [
    '--kernel',
    cachedKernel()!.image,
    '--initrd',
    imagePath('tiny'),
    '--append',
    'console=ttyS0 quiet',
  ];
  const agentPort = [
    ...['-display', 'none', '-serial', 'stdio', '-device', 'virtio-serial-pci'],
    ...['-chardev', `socket,id=agent,path=${socket},server=on,wait=on`],
    ...['-device', `virtserialport,chardev=agent,name=${PORT_NAME}`],
  ];
  const vm = new Program([
    ...[
      'vm',
      '--qemu',
      qemuNamed('11.1').path,
      '--accel',
      'tcg',
      '--memory',
      '256',
      '--cpus',
      '1',
      ...machine,
    ],
    ...['--port', cable.port, '--port', 'sink', '--', ...agentPort],
  ]);
  let agent: Agent | null = null;
  try {
    await vm.says(/waiting for connection on.*agent\.sock/);
    const stream = connect(socket);
    agent = new Agent(stream);
    const ready = agent.ready();
    await Promise.all([cable.appear(vm), ready]);
    const run = async (script: string): Promise<string> => {
      const { code, stdout, stderr } = await agent!.run(script);
      assert.equal(code, 0, `${script}\n${stderr}`);
      return stdout;
    };
    assert.equal(await run('cd /sys/class/net && echo eth*'), 'eth0 eth1\n');
    await run(`ip addr add ${GUEST_IP}/24 dev eth0 && ip link set eth0 up && ping -c 3 -W 20 ${HOST_IP}`);

    const [first] = childrenOf(vm.pid).filter(isBackend);
    process.kill(first!, 'SIGKILL');
    await vm.says(/the backend of NIC 0 ended \(SIGKILL\): starting another/);
    await cable.appear(vm);
    await run(`until ping -c 1 -W 1 ${HOST_IP}; do :; done`);

    const children = childrenOf(vm.pid);
    assert.equal(children.length, 3, 'QEMU and two backends');
    const { code } = await vm.end();
    assert.equal(code, 0, vm.output);
    for (const pid of children) assert.ok(!existsSync(`/proc/${pid}`), `process ${pid} is left`);
    const sockets = /path=(\S+)\/nic0\.sock/.exec(vm.stderr)![1]!;
    assert.ok(!existsSync(sockets), `${sockets} is left`);
  } catch (error) {
    t.diagnostic(vm.output);
    throw error;
  } finally {
    if (vm.alive) await vm.end();
    rmSync(folder, { recursive: true });
  }
});
