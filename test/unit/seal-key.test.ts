/** Key files: which are taken, and which are refused in one clear line. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, chownSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { readKeyFile } from '../../src/guest/bpfhv/seal-key.js';

const POLYNIC = fileURLToPath(new URL('../../../bin/polynic.js', import.meta.url));
const KEY = Buffer.from(Array.from({ length: 32 }, (_, i) => 255 - i));
const folder = mkdtempSync(join(tmpdir(), 'polynic-key-'));
after(() => rmSync(folder, { recursive: true }));

let files = 0;
function file(content: Buffer | string, mode = 0o600): string {
  const path = join(folder, `key${files++}`);
  writeFileSync(path, content);
  chmodSync(path, mode);
  return path;
}

test('32 bytes, or 64 hexadecimal digits with white space around them', () => {
  const hex = KEY.toString('hex');
  for (const content of [KEY, hex, `${hex}\n`, ` ${hex.toUpperCase()}\r\n`]) {
    for (const mode of [0o600, 0o400]) assert.deepEqual(readKeyFile(file(content, mode)).export(), KEY);
  }
  // 32 bytes that end like a line are a key as well.
  const ends = Buffer.concat([KEY.subarray(0, 31), Buffer.from('\n')]);
  assert.deepEqual(readKeyFile(file(ends)).export(), ends);
});

const REFUSED: readonly (readonly [what: string, path: () => string, message: RegExp])[] = [
  ['no such file', () => join(folder, 'none'), /can't be opened: ENOENT$/],
  ['a folder', () => folder, /is no regular file$/],
  ['a device', () => '/dev/zero', /is no regular file$/],
  ['an empty file', () => file(''), /holds no key/],
  ['31 bytes', () => file(KEY.subarray(1)), /holds no key/],
  ['33 bytes', () => file(Buffer.concat([KEY, KEY.subarray(0, 1)])), /holds no key/],
  ['63 digits', () => file('a'.repeat(63)), /holds no key/],
  ['two keys', () => file(`${KEY.toString('hex')}\n${KEY.toString('hex')}`), /holds no key/],
  ['64 letters', () => file('g'.repeat(64)), /holds no key/],
  ['a long file', () => file('a'.repeat(100_000)), /holds no key/],
  ['one that its group can read', () => file(KEY, 0o640), /is open to others \(mode 640\): chmod 600 it$/],
  ['one that others can write', () => file(KEY, 0o602), /is open to others \(mode 602\)/],
];
for (const [what, path, message] of REFUSED) {
  test(`${what} is refused`, () => {
    assert.throws(() => readKeyFile(path()), { code: 'DRIVER_KEY_FILE', message });
  });
}

test("somebody else's file is refused", t => {
  if (process.geteuid!() !== 0) return t.skip('needs root: it gives a file away');
  const path = file(KEY);
  chownSync(path, 65534, 65534);
  assert.throws(() => readKeyFile(path), {
    code: 'DRIVER_KEY_FILE',
    message: /belongs to user 65534, not to us$/,
  });
});

test('polynic guest says so in one line, and ends with 1', () => {
  const path = file(KEY, 0o644);
  const words = ['guest', '--bpfhv-proxy', join(folder, 'sock'), '--netdev', 'sink', '--key-file', path];
  const { status, stderr } = spawnSync(process.execPath, [POLYNIC, ...words], { encoding: 'utf8' });
  assert.equal(stderr, `polynic: key file ${path} is open to others (mode 644): chmod 600 it\n`);
  assert.equal(status, 1);
});
