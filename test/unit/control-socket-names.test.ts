/** How control sockets get their names and lose them: among living and dead processes, in folders that can be trusted and in others. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, test } from 'node:test';
import { leakTest } from '../../src/linux/testing.js';
import { UnixListener } from '../../src/linux/unix-listener.js';
import {
  controlFolder,
  controlPath,
  isControlName,
  makeFolder,
  socketNames,
} from '../../src/observe/control/address.js';
import { claim, isServed, removeDead } from '../../src/observe/control/claim.js';
import { ask, livingNames } from '../../src/observe/control/client.js';
import { Program } from '../link/program.js';

const runtime = mkdtempSync(join(tmpdir(), 'polynic-names-'));
process.env.XDG_RUNTIME_DIR = runtime;
const folder = join(runtime, 'polynic');
const path = join(folder, 'nic.sock');
after(() => rmSync(runtime, { recursive: true }));
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** A socket at which nobody listens any more, as after SIGKILL. */
function deadSocket(at: string): void {
  UnixListener.listen(at).owner.close();
}

const mode = (file: string) => lstatSync(file).mode & 0o777;

test('where the sockets are', () => {
  assert.equal(controlFolder(), folder);
  const uid = process.geteuid!();
  for (const unusable of ['', 'relative/path']) {
    process.env.XDG_RUNTIME_DIR = unusable;
    assert.equal(controlFolder(), uid === 0 ? '/run/polynic' : `/tmp/polynic-${uid}`);
  }
  process.env.XDG_RUNTIME_DIR = runtime;
  assert.equal(controlPath('vm-0'), join(folder, 'vm-0.sock'));
});

test('what a name is', () => {
  for (const name of ['nic', 'nic-2', 'VM_0.eth1', 'x'.repeat(64), '0']) assert.ok(isControlName(name), name);
  for (const name of ['', '.', '..', '.nic', '-x', 'a/b', '../nic', 'a b', 'a\n', 'ä', 'x'.repeat(65)]) {
    assert.ok(!isControlName(name), name);
  }
});

leakTest('the folder is made for this user alone; one that others could have filled is not used', () => {
  assert.deepEqual(livingNames(), []);
  assert.ok(!existsSync(folder), 'looking makes no folder');
  makeFolder();
  assert.equal(mode(folder), 0o700);
  makeFolder();
  const unusable = (why: RegExp) => {
    for (const use of [makeFolder, socketNames]) {
      assert.throws(use, { code: 'CONTROL_FOLDER', message: why });
    }
  };
  for (const open of [0o770, 0o702, 0o777]) {
    chmodSync(folder, open);
    unusable(/can be written by others/);
  }
  chmodSync(folder, 0o755);
  assert.deepEqual(socketNames(), []);
  if (process.geteuid!() === 0) {
    rmSync(folder, { recursive: true });
    mkdirSync(folder);
    chownSync(folder, 65534, 65534);
    unusable(/belongs to user 65534/);
  }
  rmSync(folder, { recursive: true });
  mkdirSync(join(runtime, 'elsewhere'));
  symlinkSync(join(runtime, 'elsewhere'), folder);
  unusable(/symbolic link/);
  rmSync(folder);
  writeFileSync(folder, '');
  unusable(/is no folder/);
});

leakTest('a name belongs to one who listens, for as long as it does', () => {
  makeFolder();
  const first = claim(path)!;
  assert.equal(mode(path), 0o600);
  assert.deepEqual(readdirSync(folder), ['nic.sock']);
  assert.ok(isServed(path));
  assert.equal(claim(path), null);
  removeDead(path);
  assert.ok(existsSync(path), 'it is not dead');
  first.release();
  assert.deepEqual(readdirSync(folder), []);
  const second = claim(path)!;
  first.release();
  assert.ok(isServed(path), "another one's");
  second.release();
});

leakTest('a dead socket gives way, and nothing is left of it', () => {
  makeFolder();
  deadSocket(path);
  const claimed = claim(path)!;
  assert.ok(isServed(path));
  assert.deepEqual(readdirSync(folder), ['nic.sock']);
  claimed.release();
  deadSocket(path);
  const living = claim(controlPath('living'))!;
  assert.deepEqual(livingNames(), ['living']);
  assert.deepEqual(readdirSync(folder), ['living.sock']);
  living.release();
});

leakTest('who removes a dead socket is alone in that, and may be killed', () => {
  makeFolder();
  deadSocket(path);
  const right = join(folder, `.nic.sock.dead.${lstatSync(path).ino}`);
  linkSync(path, right);
  assert.equal(claim(path), null);
  removeDead(path);
  assert.ok(existsSync(path) && existsSync(right), 'somebody else does it');
  removeDead(path, -1);
  claim(path)!.release();
  assert.deepEqual(readdirSync(folder), []);
});

leakTest('a name that has been taken over stays who took it', () => {
  makeFolder();
  const first = claim(path)!;
  rmSync(path);
  const second = claim(path)!;
  first.release();
  assert.ok(isServed(path));
  second.release();
  assert.deepEqual(readdirSync(folder), []);
});

leakTest('what is no socket of ours is not touched', () => {
  makeFolder();
  const target = join(folder, 'target.sock');
  const served = claim(target)!;
  symlinkSync(target, path);
  assert.throws(() => claim(path), { code: 'ERR_SOCKET_PATH', message: /symbolic link/ });
  rmSync(path);
  writeFileSync(path, 'mine');
  assert.throws(() => claim(path), { code: 'ERR_SOCKET_PATH', message: /not a socket/ });
  assert.throws(() => removeDead(path), { code: 'ERR_SOCKET_PATH' });
  assert.deepEqual(readdirSync(folder).sort(), ['nic.sock', 'target.sock']);
  served.release();
  assert.throws(() => claim(join(folder, 'none', 'x.sock')), { code: 'ENOENT' });
  assert.throws(() => claim(join(folder, `${'x'.repeat(120)}.sock`)), { code: 'ERR_SOCKET_PATH' });
});

leakTest('names are listed in the order in which people count', () => {
  makeFolder();
  const names = ['nic-10', 'nic', 'nic-2', 'guest'];
  const claims = names.map(name => claim(controlPath(name))!);
  writeFileSync(join(folder, 'no-socket.sock'), '');
  assert.deepEqual(livingNames(), ['guest', 'nic', 'nic-2', 'nic-10']);
  for (const { release } of claims) release();
});

leakTest('who is asked for and is not there: the names that are', async () => {
  await assert.rejects(ask('nic', { op: 'info' }), { code: 'CONTROL_NAME', message: /none is running/ });
  makeFolder();
  const claimed = claim(controlPath('other'))!;
  deadSocket(path);
  await assert.rejects(ask('nic', { op: 'info' }), { code: 'CONTROL_NAME', message: /there is other$/ });
  await assert.rejects(ask('..', { op: 'info' }), { code: 'CONTROL_NAME', message: /is no name/ });
  claimed.release();
});

test('of many who start at once over a dead socket one gets the name', async () => {
  makeFolder();
  deadSocket(path);
  const module = new URL('../../src/observe/control/claim.js', import.meta.url).href;
  const script = `import { claim } from ${JSON.stringify(module)};
    process.stdin.once('data', () => {
      const claimed = claim(${JSON.stringify(path)});
      process.stdout.write(claimed ? 'won' : 'lost');
      process.stdin.once('end', () => claimed?.release());
    });
    process.stdout.write('ready ');`;
  const children = Array.from({ length: 6 }, () =>
    spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['pipe', 'pipe', 'inherit'] }),
  );
  const said = children.map(() => '');
  const everybody = (words: RegExp) =>
    Promise.all(
      children.map(async (child, i) => {
        while (!words.test(said[i]!)) said[i] += String((await once(child.stdout!, 'data'))[0]);
      }),
    );
  await everybody(/ready/);
  for (const child of children) child.stdin!.write('go\n');
  await everybody(/won|lost/);
  assert.equal(said.filter(text => text.endsWith('won')).length, 1, said.join(', '));
  assert.ok(isServed(path));
  assert.deepEqual(readdirSync(folder), ['nic.sock']);
  for (const child of children) child.stdin!.end();
  await Promise.all(children.map((child: ChildProcess) => once(child, 'close')));
  assert.deepEqual(readdirSync(folder), []);
});

const serve = (...words: string[]) =>
  new Program([
    'serve',
    '--bpfhv-proxy',
    join(runtime, `s${words.join('')}`),
    '--port',
    'sink',
    '--stats',
    '1',
    ...words,
  ]);
/** The first line of rates: it runs. */
const RUNS = /^tx 0\.0 kpps/m;

test('processes: default names get numbers, a name asked for is taken or not, the dead are replaced', async () => {
  const first = serve('--listen', '-v');
  await first.says(/control socket .*\/nic\.sock/);
  const second = serve();
  await Promise.all([first.says(RUNS), second.says(RUNS)]);
  assert.deepEqual(livingNames(), ['nic', 'nic-2']);
  const named = serve('--name', 'nic');
  assert.deepEqual(await named.ended, { code: 1, signal: null });
  assert.equal(named.stderr, 'polynic: the name "nic" is taken: another process answers to it\n');
  await first.end('SIGKILL');
  assert.deepEqual(readdirSync(folder).sort(), ['nic-2.sock', 'nic.sock']);
  const heir = serve('--name', 'nic');
  await heir.says(RUNS);
  assert.deepEqual(livingNames(), ['nic', 'nic-2']);
  for (const program of [second, heir]) assert.deepEqual(await program.end(), { code: 0, signal: null });
  assert.deepEqual(readdirSync(folder), []);
});

test('processes: a socket of its own, none at all, and a folder that can not be used', async () => {
  const own = join(runtime, 'own.sock');
  const elsewhere = serve('--control', own);
  const without = serve('--control', 'none');
  await Promise.all([elsewhere.says(RUNS), without.says(RUNS)]);
  assert.deepEqual([existsSync(folder), existsSync(own)], [false, true]);
  assert.equal(((await ask(own, { op: 'info' })) as { pid: number }).pid, elsewhere.pid);
  const again = serve('--control', own);
  assert.deepEqual(await again.ended, { code: 1, signal: null });
  assert.match(again.stderr, /^polynic: another process answers at .*own\.sock\n$/);

  symlinkSync(runtime, folder);
  const warned = serve();
  await warned.says(RUNS);
  await ask(own, { op: 'leave' });
  assert.deepEqual(await elsewhere.ended, { code: 0, signal: null });
  for (const program of [without, warned]) assert.deepEqual(await program.end(), { code: 0, signal: null });
  assert.ok(!existsSync(own));
  const warnings = warned.stderr.split('\n').filter(line => line.includes('control'));
  assert.equal(warnings.length, 1, warned.stderr);
  assert.match(warnings[0]!, /warn nic: no control socket: .*is a symbolic link/);
});
