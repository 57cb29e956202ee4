/** What the command line says about words and files it can't use: one line on stderr, the right exit code, never a stack trace; and an end at once. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { deleteLink } from '../../src/linux/link.js';
import { canCreateNamespaces, createNetns } from '../../src/linux/netns.js';

const POLYNIC = fileURLToPath(new URL('../../../bin/polynic.js', import.meta.url));
const PATIENCE_MS = 60_000;

const folder = mkdtempSync(join(tmpdir(), 'polynic-cli-'));
const file = join(folder, 'file');
const socket = join(folder, 'socket');
writeFileSync(file, 'no socket');
after(() => rmSync(folder, { recursive: true }));

interface Result {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs polynic; `meanwhile` is called with each piece of output. */
function polynic(
  words: readonly string[],
  meanwhile: (kill: (signal: NodeJS.Signals) => void, output: string) => void = () => {},
): Promise<Result> {
  return new Promise(resolve => {
    const child = spawn(process.execPath, [POLYNIC, ...words], {
      timeout: PATIENCE_MS,
      killSignal: 'SIGKILL',
    });
    let stdout = '';
    let stderr = '';
    const tell = (): void => meanwhile(signal => child.kill(signal), stdout + stderr);
    child.stdout.on('data', text => {
      stdout += text;
      tell();
    });
    child.stderr.on('data', text => {
      stderr += text;
      tell();
    });
    child.once('close', code => resolve({ code, stdout, stderr }));
  });
}

const serve = (...words: string[]) => ['serve', '--bpfhv-proxy', socket, '--port', 'sink', ...words];
const guest = (...words: string[]) => ['guest', '--bpfhv-proxy', socket, '--netdev', 'sink', ...words];
const LONG = 'x'.repeat(120);

const USAGE: readonly (readonly [title: string, words: readonly string[], says: RegExp])[] = [
  ['no command', [], /no command/],
  ['an unknown command', ['frob'], /unknown command 'frob'/],
  ['a command misspelt', ['serv'], /unknown command 'serv'\. Did you mean serve\?/],
  ['help on an unknown command', ['help', 'frob'], /unknown command 'frob'/],
  ['a key and several workers', guest('--key-file', '/x', '--workers', '2'), /--key-file needs one worker/],
  ['half a command', ['ebpf'], /ebpf needs a command.*polynic ebpf --help/],
  ['an unknown option', serve('--frob'), /unknown option '--frob'/],
  ['a word too many', serve('extra'), /too many arguments/],
  ['no socket', ['serve', '--port', 'sink'], /--bpfhv-proxy.*--vhost-user/],
  [
    'two sockets',
    ['serve', '--bpfhv-proxy', socket, '--vhost-user', socket, '--port', 'sink'],
    /--bpfhv-proxy.*--vhost-user/,
  ],
  [
    'a ring format for virtio',
    ['serve', '--vhost-user', socket, '--device', 'sring', '--port', 'sink'],
    /--device/,
  ],
  [
    'virtio that follows the traffic',
    ['serve', '--vhost-user', socket, '--adaptive', '--port', 'sink'],
    /--adaptive/,
  ],
  ['no value', ['serve', '--bpfhv-proxy'], /argument missing/],
  ['no port', ['serve', '--bpfhv-proxy', socket], /--port/],
  ['no netdev', ['guest', '--bpfhv-proxy', socket], /--netdev/],
  ['both ways to meet', serve('--listen', '--connect'), /--connect.*--listen|--listen.*--connect/],
  ['an unknown device type', serve('--device', 'foo'), /foo.*sring/],
  ['an unknown port', ['serve', '--bpfhv-proxy', socket, '--port', 'foo:bar'], /foo.*tap:/],
  ['a port option that is not', ['serve', '--bpfhv-proxy', socket, '--port', 'sink:len=1'], /len=1.*sink/],
  ['a frame size out of range', ['serve', '--bpfhv-proxy', socket, '--port', 'source:len=9'], /len.*9/],
  [
    'an interface name too long',
    ['guest', '--bpfhv-proxy', socket, '--netdev', `tap:${LONG}`],
    /interface name/,
  ],
  ['buffers that are no power of two', serve('--bufs', '100'), /--bufs.*power of two.*100/],
  ['too few buffers', guest('--bufs', '8'), /--bufs.*16.*8192/],
  ['too many queues', serve('--queues', '99'), /--queues.*32.*99/],
  ['a number that is none', serve('--sleep-us', '1e3'), /--sleep-us.*1e3/],
  ['no seconds', serve('--stats', '0'), /--stats.*0/],
  ['an offload that the format does not have', serve('--offload', 'tso'), /--offload.*sring/],
  ['an offload that does not exist', serve('--offload', 'csum,fast'), /--offload.*csum,fast/],
  ['offloads in other words', guest('--offload', 'TSO'), /--offload.*TSO/],
  ['an address that is none', guest('--mac', 'zz'), /zz/],
  ['the address of a group', guest('--mac', 'ff:ff:ff:ff:ff:ff'), /ff:ff is the address of a group/],
  ['an address of zeros', guest('--mac', '00:00:00:00:00:00'), /00:00 is no interface's address/],
  ['no PCI address', ['guest', '--pci', '1:2.3', '--netdev', 'sink'], /--pci.*0000:01:00\.0.*1:2\.3/],
  [
    'queues of a device on PCI',
    ['guest', '--pci', '01:00.0', '--queues', '2', '--netdev', 'sink'],
    /--pci.*--queues/,
  ],
  [
    'buffers of a device behind vfio-user',
    ['guest', '--vfio-user', socket, '--bufs', '64', '--netdev', 'sink'],
    /--vfio-user.*--bufs/,
  ],
  ['a device twice', guest('--pci', '01:00.0'), /--pci.*--bpfhv-proxy/],
  ['memory for rings that no upgrade brings', guest('--max-bufs', '512'), /--max-bufs.*--pci/],
  ['no frame size', ['serve', '--bpfhv-proxy', socket, '--port', 'source:len='], /len.*not ""/],
  [
    'the address of a group, for a TAP',
    ['serve', '--bpfhv-proxy', socket, '--port', 'tap:t,mac=01:00:00:00:00:01'],
    /address of a group/,
  ],
];

const FAILURES: readonly (readonly [title: string, words: readonly string[], says: RegExp])[] = [
  [
    'a folder that is not there',
    ['serve', '--bpfhv-proxy', `${folder}/no/s`, '--listen', '--port', 'sink'],
    /no\/s.*ENOENT/,
  ],
  ['the same, as guest', ['guest', '--bpfhv-proxy', `${folder}/no/s`, '--netdev', 'sink'], /no\/s.*ENOENT/],
  [
    'a file in the way',
    ['guest', '--bpfhv-proxy', file, '--netdev', 'sink'],
    /file exists and is not a socket/,
  ],
  ['a file to connect to', ['serve', '--bpfhv-proxy', file, '--port', 'sink'], /file is not a socket/],
  [
    'the same, as guest',
    ['guest', '--bpfhv-proxy', file, '--connect', '--netdev', 'sink'],
    /file is not a socket/,
  ],
  ['a path too long', ['serve', '--bpfhv-proxy', `/${LONG}`, '--port', 'sink'], /has 121 bytes.*107/],
  ['the same, as guest', ['guest', '--bpfhv-proxy', `/${LONG}`, '--netdev', 'sink'], /has 121 bytes.*107/],
  [
    'a namespace that is not there',
    ['serve', '--bpfhv-proxy', socket, '--port', 'tap:t,netns=none-such'],
    /none-such.*ENOENT/,
  ],
  [
    'no such PCI function',
    ['guest', '--pci', 'ffff:00:1f.7', '--netdev', 'sink'],
    /no PCI function ffff:00:1f\.7/,
  ],
  ['a file in place of a device', ['guest', '--vfio-user', file, '--netdev', 'sink'], /file is not a socket/],
  ['a pid file that can not be', serve('--pidfile', `${folder}/no/pid`), /no\/pid/],
  ['the same, as guest', guest('--pidfile', `${folder}/no/pid`), /no\/pid/],
  ['a capture file that can not be', serve('--pcap', `${folder}/no/f`), /no\/f.*ENOENT/],
  [
    'a capture to replay that is not there',
    ['guest', '--bpfhv-proxy', socket, '--netdev', `pcap:in=${folder}/none`],
    /none.*ENOENT/,
  ],
];

for (const [code, table] of [
  [2, USAGE],
  [1, FAILURES],
] as const) {
  for (const [title, words, says] of table) {
    test(`exit code ${code}: ${words[0] ?? 'nothing'}: ${title}`, async () => {
      const result = await polynic(words);
      const lines = result.stderr.trimEnd().split('\n');
      assert.match(lines.at(-1)!, says);
      assert.equal(lines.length, 1, result.stderr);
      assert.match(result.stderr, /^polynic: /);
      assert.equal(result.stdout, '');
      assert.equal(result.code, code);
      assert.ok(!existsSync(socket), 'a socket is left');
    });
  }
}

for (const words of [['--help'], ['serve', '--help'], ['guest', '--help'], ['--version']]) {
  test(`exit code 0: ${words.join(' ')}`, async () => {
    const { code, stdout, stderr } = await polynic(words);
    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
    assert.match(stdout, words[0] === '--version' ? /^\d+\.\d+\.\d+\n$/ : /^Usage: polynic/);
  });
}

test('a guest that waits for its device, whose memory it has yet to know, ends well', async () => {
  const words = ['guest', '--vfio-user', join(folder, 'nobody'), '--netdev', 'sink'];
  const { code, stdout, stderr } = await polynic(words, kill => kill('SIGTERM'));
  assert.deepEqual([code, stdout], [0, '']);
  assert.match(stderr, /warn guest: waiting for a device: connect .*nobody: ENOENT.*\n$/);
});

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  for (const command of ['serve', 'guest'] as const) {
    test(`${command} ends well on ${signal}: exit code 0, socket and pid file gone`, async () => {
      const path = join(folder, `${command}-${signal}`);
      const pidfile = `${path}.pid`;
      const port = command === 'serve' ? ['--port', 'sink', '--listen'] : ['--netdev', 'sink'];
      const words = [command, '--bpfhv-proxy', path, ...port, '--pidfile', pidfile, '--stats', '1'];
      let pid = '';
      // The first line of rates says that it runs.
      const { code, stdout, stderr } = await polynic(words, kill => {
        if (pid !== '') return;
        pid = readFileSync(pidfile, 'utf8');
        assert.ok(existsSync(path));
        kill(signal);
      });
      assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
      assert.match(stdout, /^tx 0\.0 kpps/);
      assert.match(pid, /^\d+\n$/);
      assert.ok(!existsSync(path) && !existsSync(pidfile));
    });
  }
}

test('serve that waits for a hypervisor says so once, and ends on SIGTERM', async () => {
  const { code, stderr } = await polynic(['serve', '--bpfhv-proxy', socket, '--port', 'sink'], kill =>
    kill('SIGTERM'),
  );
  assert.equal(code, 0);
  assert.match(stderr, /^\S+ warn nic: waiting for a hypervisor: connect \S+: ENOENT .*\n$/);
});

test('guest that waits for a backend says so once, and ends on SIGTERM', async () => {
  const words = ['guest', '--bpfhv-proxy', socket, '--connect', '--netdev', 'sink'];
  const { code, stderr } = await polynic(words, kill => kill('SIGTERM'));
  assert.equal(code, 0);
  assert.match(stderr, /^\S+ warn guest: waiting for a backend: connect \S+: ENOENT .*\n$/);
});

test('a signal that comes twice at once, as from timeout or npm, is one: socket and pid file go', async () => {
  const path = join(folder, 'twice');
  const pidfile = `${path}.pid`;
  const words = ['guest', '--bpfhv-proxy', path, '--netdev', 'sink', '--pidfile', pidfile, '--stats', '1'];
  let sent = false;
  const { code, stderr } = await polynic(words, kill => {
    if (sent) return;
    sent = true;
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) kill(signal);
  });
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
  assert.ok(!existsSync(path) && !existsSync(pidfile));
});

test('a pid file that names another process by now stays', async () => {
  const path = join(folder, 'taken');
  const pidfile = `${path}.pid`;
  const words = ['guest', '--bpfhv-proxy', path, '--netdev', 'sink', '--pidfile', pidfile, '--stats', '1'];
  let told = false;
  const { code } = await polynic(words, kill => {
    if (told) return; // a second signal might find the process on its way out, without handlers
    told = true;
    writeFileSync(pidfile, '1\n');
    kill('SIGTERM');
  });
  assert.equal(code, 0);
  assert.equal(readFileSync(pidfile, 'utf8'), '1\n');
});

test('a full disk behind stdout is said once; serve goes on, ends on SIGTERM and has failed', async () => {
  const full = openSync('/dev/full', 'w');
  const path = join(folder, 'full');
  const words = [POLYNIC, 'serve', '--bpfhv-proxy', path, '--listen', '--port', 'sink', '--stats', '1'];
  const child = spawn(process.execPath, words, { stdio: ['ignore', full, 'pipe'], timeout: PATIENCE_MS });
  closeSync(full);
  let stderr = '';
  child.stderr!.on('data', text => {
    stderr += text;
    assert.ok(existsSync(path));
    child.kill('SIGTERM');
  });
  const [code] = await once(child, 'close');
  assert.match(stderr, /^polynic: stdout: .*ENOSPC.*\n$/);
  assert.equal(code, 1);
  assert.ok(!existsSync(path));
});

test('a reader that leaves ends a command that only prints, quietly', async () => {
  const object = fileURLToPath(new URL('../../../programs/sring/sring.o', import.meta.url));
  const child = spawn(process.execPath, [POLYNIC, 'ebpf', 'disasm', object], { timeout: PATIENCE_MS });
  child.stdout.destroy();
  let stderr = '';
  child.stderr.on('data', text => (stderr += text));
  const [code] = await once(child, 'close');
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
});

const noNamespaces = canCreateNamespaces() ? false : 'network namespaces cannot be made here';
for (const command of ['serve', 'guest'] as const) {
  test(`${command} ends with exit code 1 when its TAP is deleted, and leaves nothing`, {
    skip: noNamespaces,
  }, async () => {
    using netns = createNetns();
    const path = join(folder, `${command}-tap`);
    const spec = `tap:t0,netns=/proc/${process.pid}/fd/${netns.fd}`;
    const port = command === 'serve' ? ['--listen', '--port', spec] : ['--netdev', spec];
    let deleted = false;
    const { code, stderr } = await polynic([command, '--bpfhv-proxy', path, ...port, '--stats', '1'], () => {
      if (!deleted) deleteLink('t0', netns);
      deleted = true;
    });
    assert.deepEqual({ code, stderr }, { code: 1, stderr: 'polynic: interface t0 was deleted\n' });
    assert.ok(!existsSync(path));
  });
}
