/** The words that QEMU gets, by version; and what `polynic vm` makes of its options, with a program in QEMU's place. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { machineArgs, nicArgs, quoted } from './command-line.js';
import { atLeast, findQemu, type Qemu } from './qemu.js';

const POLYNIC = fileURLToPath(new URL('../../../bin/polynic.js', import.meta.url));
const old: Qemu = { path: 'old', version: [7, 2] };
const recent: Qemu = { path: 'new', version: [11, 1] };
const folder = mkdtempSync(join(tmpdir(), 'polynic-qemu-'));
after(() => rmSync(folder, { recursive: true }));

/** A program that does what the script says when it is run. */
function program(name: string, script: string): string {
  const path = join(folder, name);
  writeFileSync(path, `#!/bin/sh\n${script}\n`);
  chmodSync(path, 0o755);
  return path;
}

test('vhost-user: who listens, queues, and no MSI-X where it would kill QEMU', () => {
  const nic = { kind: 'vhost-user', socket: '/run/a,b.sock', listener: 'qemu' } as const;
  assert.equal(
    quoted(nicArgs(old, 'tcg', nic, 'n')),
    '-chardev socket,id=n-socket,path=/run/a,,b.sock,server=on,wait=off ' +
      '-netdev vhost-user,id=n,chardev=n-socket -device virtio-net-pci,netdev=n,id=n-nic,romfile=,vectors=0',
  );
  const many = {
    ...nic,
    listener: 'backend',
    queues: 4,
    mac: '02:00:00:00:00:07',
    properties: ['packed=on'],
  } as const;
  assert.equal(
    quoted(nicArgs(recent, 'tcg', many, 'n')),
    '-chardev socket,id=n-socket,path=/run/a,,b.sock,reconnect-ms=200 -netdev vhost-user,id=n,chardev=n-socket,queues=4 ' +
      '-device virtio-net-pci,netdev=n,id=n-nic,romfile=,mac=02:00:00:00:00:07,mq=on,vectors=10,packed=on',
  );
  const reconnect = (qemu: Qemu) => /reconnect\S*/.exec(nicArgs(qemu, 'kvm', many, 'n').join(' '))?.[0];
  assert.equal(reconnect(old), 'reconnect=1');
  assert.match(nicArgs(old, 'tcg', many, 'n').join(' '), /vectors=0/);
  assert.match(nicArgs(old, 'kvm', many, 'n').join(' '), /vectors=10/);
});

test('vfio-user: JSON, and only where there is such a thing', () => {
  const nic = { kind: 'vfio-user', socket: '/run/x.sock', bus: 'port0' } as const;
  const [, json] = nicArgs(recent, 'tcg', nic, 'n');
  const socket = { path: '/run/x.sock', type: 'unix' };
  assert.deepEqual(JSON.parse(json!), { driver: 'vfio-user-pci', id: 'n', bus: 'port0', socket });
  assert.throws(() => nicArgs(old, 'tcg', nic, 'n'), { code: 'VM_QEMU', message: /QEMU 7\.2.*10\.1/ });
});

test('guest memory is a memfd that can be shared', () => {
  const words = quoted(
    machineArgs({ memoryMb: 256, cpus: 2, accelerator: 'kvm', kernel: '/k', append: 'a b' }),
  );
  assert.match(words, /memory-backend-memfd,id=ram,size=256M,share=on/);
  assert.match(words, /-accel kvm -cpu host -kernel \/k -append 'a b'/);
});

test('a QEMU says its version, or is none', () => {
  const qemu = findQemu(program('good', 'echo "QEMU emulator version 9.2.1 (Debian)"'));
  assert.deepEqual(qemu.version, [9, 2]);
  assert.ok(atLeast(qemu, 9, 2) && atLeast(qemu, 8, 9) && !atLeast(qemu, 9, 3) && !atLeast(qemu, 10));
  assert.throws(() => findQemu(join(folder, 'none')), { code: 'VM_QEMU', message: /^no / });
  assert.throws(() => findQemu(program('bad', 'echo no such option >&2; exit 1')), {
    code: 'VM_QEMU',
    message: /no such option/,
  });
});

const qemu = () =>
  program('qemu', 'case "$1" in --version) echo QEMU emulator version 9.2.1 ;; *) exit 3 ;; esac');
const vm = (...words: string[]) =>
  spawnSync(process.execPath, [POLYNIC, 'vm', ...words], { encoding: 'utf8' });

test('polynic vm prints what it would run', () => {
  const words = [
    '--qemu',
    qemu(),
    '--accel',
    'tcg',
    '--port',
    'sink',
    '--port',
    'tap:t0',
    '--dry-run',
    '--',
    '-hda',
    'a disk',
  ];
  const { status, stderr } = vm(...words);
  assert.equal(status, 0, stderr);
  const lines = stderr.trimEnd().split('\n');
  assert.equal(lines[0], 'polynic serve --vhost-user /run/nic0.sock --connect --port sink');
  assert.equal(lines[1], 'polynic serve --vhost-user /run/nic1.sock --connect --port tap:t0');
  assert.match(lines[2]!, /-m 1024M .*path=\/run\/nic0\.sock,.*path=\/run\/nic1\.sock,.* -hda 'a disk'$/);
});

test('polynic vm gives each card an address of its own: a random one, or those that were asked for', () => {
  const macs = (...words: string[]) => {
    const { status, stderr } = vm(
      '--qemu',
      qemu(),
      '--port',
      'sink',
      '--port',
      'sink',
      '--dry-run',
      ...words,
    );
    assert.equal(status, 0, stderr);
    return [...stderr.matchAll(/,mac=([0-9a-f:]+)/g)].map(([, mac]) => mac!);
  };
  const some = macs();
  const others = macs();
  assert.equal(new Set([...some, ...others]).size, 4, 'all different');
  for (const mac of some)
    assert.match(mac, /^[0-9a-f][26ae](:[0-9a-f]{2}){5}$/, 'local, and of one interface');
  assert.deepEqual(macs('--mac', '02:00:00:00:00:ff'), ['02:00:00:00:00:ff', '02:00:00:00:01:00']);
});

test('polynic vm that cannot says so in a line', () => {
  const says = (code: number, message: RegExp, ...words: string[]) => {
    const { status, stderr } = vm('--port', 'sink', ...words);
    assert.match(stderr.trimEnd().split('\n').pop()!, message);
    assert.equal(status, code, stderr);
  };
  says(1, /^polynic: no .*none: install QEMU/, '--qemu', join(folder, 'none'));
  says(2, /^polynic: .*belong to a --kernel/, '--qemu', qemu(), '--append', 'quiet');
  says(2, /^polynic: .*serve --config/, '--qemu', qemu(), '--port', 'switch:lan');
  says(2, /^polynic: .*no Ethernet address/, '--qemu', qemu(), '--mac', 'here');
  says(1, /^polynic: QEMU ended: exit code 3$/, '--qemu', qemu());
});
