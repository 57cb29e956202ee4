/** Device types from modules: what is refused, and with which words; what is accepted is the same in every thread. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { after, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { DeviceTypeError, deviceType } from '../../src/ring/index.js';
import { eventually } from '../compliance/testbed.js';
import { STAMP_RING } from '../compliance/types.js';
import { Program } from '../link/program.js';
import { nicTest, TX } from './nic-rig.js';

const folder = mkdtempSync(join(tmpdir(), 'polynic-device-'));
after(() => rmSync(folder, { recursive: true }));

let modules = 0;

/** A module with that text; returns its path. */
function written(text: string): string {
  const path = join(folder, `m${modules++}.mjs`);
  writeFileSync(path, text);
  return path;
}

/** A module that exports the example with some properties replaced. */
const changed = (properties: string): string =>
  written(
    `import type from ${JSON.stringify(pathToFileURL(STAMP_RING).href)};\nexport default { ...type, ${properties} };`,
  );

const refused = (path: string, why: RegExp) =>
  assert.throws(
    () => deviceType(path),
    (error: unknown) => {
      assert.ok(error instanceof DeviceTypeError, String(error));
      assert.equal(error.code, 'DEVICE_TYPE');
      assert.ok(error.message.startsWith(`device type ${path}: `), error.message);
      assert.ok(!error.message.includes('\n'), error.message);
      assert.match(error.message, why);
      return true;
    },
  );

test('what is no module, or exports no device type, is refused with a line that says why', () => {
  const cases: readonly (readonly [string, RegExp])[] = [
    [join(folder, 'nothing.js'), /Cannot find module/],
    [folder, /Cannot find module|directory/i],
    [written('export default {'), /Unexpected|SyntaxError|token/],
    [written('throw new Error("first\\nsecond")'), /first$/],
    [written('throw undefined'), /undefined/],
    [written('await 1; export default {};'), /awaits something at its top level/],
    [written('export const name = "x";'), /default export is no device type/],
    [written('export default () => {};'), /default export is no device type/],
    [written('export default null;'), /default export is no device type/],
    [written('import "polynic-no-such-package";'), /polynic-no-such-package/],
    [changed('name: undefined'), /its name has to be a word/],
    [changed('name: "Stamp Ring"'), /its name has to be a word/],
    [changed('name: "sring"'), /sring, is a built-in type's/],
    [changed('features: 0'), /its features has to be a BigInt/],
    [changed('features: 1n << 40n'), /its features has to be a BigInt/],
    [changed('features: -1n'), /its features has to be a BigInt/],
    [changed('maxFrame: 9000'), /its maxFrame has to be a number of bytes from 60 to 1518/],
    [changed('maxBufs: 100'), /its maxBufs has to be a power of two/],
    [changed('metadata: 1'), /its metadata has to be/],
    [changed('fields: { prod: 2 }'), /its fields has to be/],
    [changed('programs: "stamp_ring.o"'), /its programs has to be the file: URL/],
    [changed('programs: new URL("none.o", import.meta.url)'), /its programs has to be the file: URL/],
    [changed('programs: new URL("https://example.org/x.o")'), /its programs has to be the file: URL/],
    [changed('ring: {}'), /its ring has to be a function/],
    [`/${'long/'.repeat(60)}x.js`, /longer than 200 bytes/],
  ];
  for (const [path, why] of cases) refused(path, why);
});

test('a ring without all of its calls is refused when it is made', () => {
  const type = deviceType(changed('ring: () => ({ pop() {}, push() {}, kicks: 1 })'))!;
  const lacking = /lacks contextSize, initialise, resume, pending, kicks, complete, room$/;
  assert.throws(() => type.ring(undefined as never), lacking);
  const nothing = deviceType(changed('ring: () => {}'))!;
  assert.throws(() => nothing.ring(undefined as never), /lacks contextSize, .* push$/);
});

test('a module is one type, by whichever path it is named, and other modules are other types', () => {
  const type = deviceType(STAMP_RING)!;
  assert.equal(type.name, STAMP_RING);
  assert.equal(type.title, 'stamp_ring');
  assert.equal(deviceType(relative(process.cwd(), STAMP_RING)), type);
  const path = changed('maxBufs: 64');
  const other = deviceType(path)!;
  assert.deepEqual([other.name, other.title, other.maxBufs], [path, 'stamp_ring', 64]);
  assert.equal(deviceType('stamp_ring'), undefined, 'names are for built-in types');
});

nicTest('the worker loads the module by itself, and the dump shows its fields', async start => {
  const rig = await start({ device: deviceType(STAMP_RING)! });
  await rig.prepare();
  await rig.enable();
  rig.publish(9);
  await eventually(() => rig.packets(TX) === 9);
  assert.match(rig.nic.dump(), /ring {4}prod 9 {2}event 0 {2}cons 9 {2}kick \d {2}clear \d/);
});

test('serve says what is wrong with a module, in one line, and ends with 2', async () => {
  for (const [word, why] of [
    [written('export default 1'), /^polynic: device type .*: its default export is no device type\n$/],
    ['no_such_ring', /^polynic: there is no device type "no_such_ring": write .* or the path of a module\n$/],
  ] as const) {
    const serve = new Program([
      ...['serve', '--bpfhv-proxy', join(folder, 's'), '--port', 'sink', '--device', word],
    ]);
    assert.equal((await serve.ended).code, 2);
    assert.match(serve.stderr, why);
  }
});
