import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { check, LinuxError } from './errors.js';
import { countProcessFds, inheritFd, OwnedFd, openFds, setInheritable } from './fd.js';
import * as libc from './libc.js';
import { leakTest } from './testing.js';

const O_CLOEXEC = 0o2000000;
const openNull = (name: string) => new OwnedFd(libc.open('/dev/null', O_CLOEXEC), name, 'open');

test('a failed call says what failed on what', () => {
  assert.throws(
    () => new OwnedFd(libc.open('/nonexistent', O_CLOEXEC), '/nonexistent', 'open'),
    (error: LinuxError) => {
      assert.ok(error instanceof LinuxError);
      assert.equal(error.message, 'open /nonexistent: ENOENT (no such file or directory)');
      assert.deepEqual([error.code, error.errno, error.call], ['ENOENT', 2, 'open']);
      return true;
    },
  );
  assert.equal(check(7, 'read'), 7);
  assert.equal(new LinuxError('poll', 4095).code, 'E4095');
  assert.equal(new LinuxError('read', 11).code, 'EAGAIN');
});

leakTest('an owned fd is listed until it is closed, and closes once', () => {
  const before = countProcessFds();
  const a = openNull('a');
  const b = a.dup('b');
  assert.deepEqual(
    openFds()
      .slice(-2)
      .map(({ name }) => name),
    ['a', 'b'],
  );
  assert.equal(countProcessFds(), before + 2);
  const number = a.fd;
  a.close();
  assert.equal(a.fd, -1);
  const reuse = openNull('reuse');
  assert.equal(reuse.fd, number, 'the kernel reuses the lowest number');
  a.close();
  assert.equal(libc.write(reuse.fd, new Uint8Array(1), 1), -9, 'EBADF: opened for reading, still open');
  assert.equal(libc.read(reuse.fd, new Uint8Array(1), 1), 0);
  reuse.close();
  b.close();
});

leakTest('an fd reaches a child only when it is made inheritable', () => {
  const kept = openNull('kept');
  const given = openNull('given');
  setInheritable(given.fd, true);
  const list = spawnSync('ls', ['/proc/self/fd'], { encoding: 'utf8' }).stdout.split('\n');
  assert.ok(list.includes(String(given.fd)));
  assert.ok(!list.includes(String(kept.fd)));
  const taken = inheritFd(given.release(), 'taken');
  assert.ok(!spawnSync('ls', ['/proc/self/fd'], { encoding: 'utf8' }).stdout.includes(`\n${taken.fd}\n`));
  assert.throws(() => inheritFd(900, 'nothing'), { code: 'EBADF', message: /nothing \(fd 900\)/ });
  taken.close();
  kept.close();
});
