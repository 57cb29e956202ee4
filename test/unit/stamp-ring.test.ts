/** The example of docs/write-your-own-ring.md: its size, its object, and that what the port knows of a frame reaches the guest. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { assemble } from '../../src/ebpf/asm.js';
import { loadObject } from '../../src/ebpf/elf.js';
import { verify } from '../../src/ebpf/index.js';
import { decodeProgram } from '../../src/ebpf/program.js';
import { BPFHV_HELPERS } from '../../src/guest/bpfhv/helpers.js';
import { deviceType } from '../../src/ring/registry.js';
import { arena, Testbed, window } from '../compliance/testbed.js';
import { STAMP_RING } from '../compliance/types.js';
import { ROOT, SECTIONS } from './program-bed.js';

const folder = dirname(STAMP_RING);
const NUM = 16;

test('it has less than 200 lines', () => {
  const sources = readdirSync(folder).filter(name => /\.(js|c|h)$/.test(name));
  assert.deepEqual(sources.sort(), ['stamp_ring.bpf.c', 'stamp_ring.js']);
  const lines = sources.map(name => readFileSync(join(folder, name), 'utf8').trimEnd().split('\n'));
  const count = lines.flat().length;
  assert.ok(count > 100 && count < 200, `${count} lines`);
  for (const line of lines.flat()) assert.ok(line.length <= 130, line);
});

test('the object has every program, the verifier accepts each, and the README says how to make it', t => {
  const { programs, relocations } = loadObject(readFileSync(join(folder, 'stamp_ring.o')));
  assert.deepEqual([...programs.keys()].sort(), [...SECTIONS].sort());
  assert.equal(relocations, 0);
  for (const [section, bytes] of programs) {
    const report = verify(decodeProgram(bytes, section), {
      contextSize: 2096 + 512 + 32 * 256,
      helpers: BPFHV_HELPERS,
    });
    assert.ok(report.accepted, section);
  }
  const command = /^clang .*$/m.exec(readFileSync(join(folder, 'README.md'), 'utf8'))![0];
  const version = spawnSync('clang', ['--version'], { encoding: 'utf8' }).stdout?.split('\n')[0];
  const shipped = readFileSync(join(ROOT, 'programs/clang-version.txt'), 'utf8').trim();
  if (version !== shipped) return t.skip(`needs ${shipped}; here is ${version ?? 'no clang'}`);
  const copy = mkdtempSync(join(tmpdir(), 'polynic-stamp-'));
  try {
    copyFileSync(join(folder, 'stamp_ring.bpf.c'), join(copy, 'stamp_ring.bpf.c'));
    const here = command.replace('../../programs', join(ROOT, 'programs'));
    const { status, stderr } = spawnSync('sh', ['-c', here], { cwd: copy, encoding: 'utf8' });
    assert.equal(status, 0, stderr);
    const made = readFileSync(join(copy, 'stamp_ring.o'));
    assert.ok(made.equals(readFileSync(join(folder, 'stamp_ring.o'))), 'the object is not of this source');
  } finally {
    rmSync(copy, { recursive: true });
  }
});

test('what the page shows of the example is what is there', () => {
  const page = readFileSync(join(ROOT, 'docs/write-your-own-ring.md'), 'utf8');
  const files = {
    c: join(folder, 'stamp_ring.bpf.c'),
    js: join(folder, 'stamp_ring.js'),
    ts: join(ROOT, 'test/compliance/stamp-ring.test.ts'),
  };
  const seen = new Set<string>();
  for (const [, language, block] of page.matchAll(/^```(c|js|ts)\n([\s\S]*?)^```/gm)) {
    const source = readFileSync(files[language as keyof typeof files], 'utf8');
    const shown = block!.replace(/'.*my_ring\.js'/, 'STAMP_RING');
    assert.ok(source.includes(shown), shown);
    seen.add(language!);
  }
  assert.deepEqual([...seen].sort(), ['c', 'js', 'ts']);
});

/** Stamp and mark of every frame that the guest gets in one poll of `budget`. */
function polled(bed: Testbed, budget: number): { metadata: boolean; frames: [bigint, number][] } {
  const { calls } = bed.datapath;
  const { guestBatch } = bed;
  assert.ok(calls.driver_rx_poll(bed.rx.driver, guestBatch.address, budget) >= 0);
  const frames = Array.from({ length: guestBatch.count }, (_, i): [bigint, number] => [
    (BigInt(guestBatch.stampHigh(i)) << 32n) | BigInt(guestBatch.stampLow(i)),
    guestBatch.mark(i),
  ]);
  const { metadata } = guestBatch;
  calls.driver_rx_release(bed.rx.driver, guestBatch.address);
  return { metadata, frames };
}

test("stamps of the port, the clock's where it has none, and marks reach the guest with their frames", () => {
  const live = arena.live;
  const bed = new Testbed({ device: STAMP_RING, num: NUM });
  const { ring, deviceBatch, rx } = bed;
  const { calls } = bed.datapath;
  const stamps = [0x1234_5678_9abc_def0n, 0n, 2n ** 64n - 1n];
  for (let round = 0; round < 3; round++) {
    assert.ok(calls.driver_rx_refill(rx.driver) >= 0);
    assert.ok(ring.room(rx.queue.address, deviceBatch.address, NUM) >= 3);
    assert.equal(deviceBatch.metadata, true, 'the port is asked');
    for (const [i, stamp] of stamps.entries()) {
      const at = window.words[window.words[frame(deviceBatch.address, i) + L.FRAME_WIN / 4]! >>> 2]!;
      window.bytes.fill(0, at, at + 60);
      // Protocol 17 from 10.0.0.1 port 1 to 10.0.0.2 port 2 + i.
      window.bytes.set([8, 0, 0x45], at + 12);
      window.bytes.set([17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 1, 0, 2 + i], at + 23);
      deviceBatch.setLength(i, 60);
      deviceBatch.setStamp(i, Number(stamp >> 32n), Number(stamp & 0xffff_ffffn));
    }
    const before = BigInt(Date.now()) * 1_000_000n;
    ring.push(rx.queue.address, deviceBatch.address, 3);
    const after = BigInt(Date.now() + 1) * 1_000_000n;
    const { metadata, frames } = polled(bed, NUM);
    assert.equal(metadata, true);
    const marks = stamps.map((_, i) => fnv([10, 0, 0, 1, 10, 0, 0, 2, 17, 0, 1, 0, 2 + i]));
    assert.deepEqual(
      frames.map(([, mark]) => mark),
      marks,
    );
    assert.deepEqual([frames[0]![0], frames[2]![0]], [stamps[0], stamps[2]]);
    const clock = frames[1]![0];
    assert.ok(before <= clock && clock <= after, `${before} ${clock} ${after}`);
  }
  bed.close();
  assert.equal(arena.live, live);
});

/** Window address of a batch's i-th frame, in words. */
function frame(batch: number, i: number): number {
  return (window.words[(batch + L.BATCH_FRAMES) >>> 2]! + i * L.FRAME_SIZE) >>> 2;
}

/** FNV-1a, 32 bits. */
function fnv(bytes: readonly number[]): number {
  return bytes.reduce((hash, byte) => Math.imul(hash ^ byte, 0x01000193) >>> 0, 0x811c9dc5);
}

test('a frame without metadata has none, whatever was in its place before', () => {
  // rxc of no ring: gives buffer 0, 1, 2 … to the guest, and metadata to the even ones.
  const text = `
    mov %r6, %r1
    ldxdw %r7, [%r6+0]
    stxdw [%r6+48], %r7
    mov %r0, 60
    stxw [%r6+72], %r0
    mov %r0, 1
    stxw [%r6+16], %r0
    mov %r8, %r7
    add %r8, 1
    stxdw [%r6+0], %r8
    call 0x4b8f0000
    and %r7, 1
    jeq %r7, 1, done
    mov %r1, %r6
    mov %r2, 77
    mov %r3, 5
    call 0x4b8f0042
  done:
    mov %r0, 1
    exit`;
  for (const engine of ['jit', 'interpreter'] as const) {
    const bed = new Testbed({
      device: STAMP_RING,
      num: NUM,
      engine,
      programs: new Map([['rxc', assemble(text)]]),
    });
    assert.ok(bed.datapath.calls.driver_rx_refill(bed.rx.driver) >= 0);
    const [yes, no] = [[77n, 5] as const, 0n];
    assert.deepEqual(polled(bed, 1).frames, [yes]);
    const { metadata, frames } = polled(bed, 5);
    assert.equal(metadata, true);
    assert.deepEqual(
      frames.map(([stamp, mark]) => (stamp === 0n ? no : [stamp, mark])),
      [no, yes, no, yes, no],
    );
    bed.close();
  }
  // Other device types say that they have none, on the same batch.
  const bed = new Testbed({ device: 'sring', num: NUM });
  const { guestBatch, deviceBatch, rx } = bed;
  window.words[(guestBatch.address + L.BATCH_METADATA) >>> 2] = 1;
  assert.ok(bed.datapath.calls.driver_rx_refill(rx.driver) >= 0);
  bed.ring.room(rx.queue.address, deviceBatch.address, NUM);
  assert.equal(deviceBatch.metadata, false, 'no port is asked');
  for (const i of [0, 1]) deviceBatch.setLength(i, 60);
  bed.ring.push(rx.queue.address, deviceBatch.address, 2);
  assert.equal(polled(bed, NUM).metadata, false);
  assert.equal(deviceType('sring')!.metadata, undefined);
  bed.close();
});
