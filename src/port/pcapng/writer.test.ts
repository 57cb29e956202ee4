/** The writer against our reader, against tshark, on a full disk, and under SIGKILL. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  appendFileSync,
  existsSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import * as D from '../../../datapath/layout.js';
import { WallClock } from '../../linux/wall-clock.js';
import { createCapture } from './head.js';
import { INBOUND, MAX_FRAME, OUTBOUND } from './layout.js';
import { Bench, folder, haveTshark, numbered, readCapture, run, tshark } from './testing.js';
import { PcapWriter, UNDIRECTED } from './writer.js';

const bench = new Bench();
const batch = bench.batch();
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
const frame = (length: number, from = 0) => [Uint8Array.from(numbered(length, from))];

test('the clock counts as BigInt does', () => {
  const clock = new WallClock();
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 2 ** 32 - 1 }),
      fc.integer({ min: 0, max: 999_999_999 }),
      (seconds, ns) => {
        clock.set(seconds, ns);
        const expected = BigInt(seconds) * 1_000_000_000n + BigInt(ns);
        assert.equal((BigInt(clock.high) << 32n) | BigInt(clock.low), expected);
      },
    ),
  );
});

test('what the writer writes, the reader reads', t => {
  const path = join(folder(t), 'f');
  const buffer = fc.uint8Array({ maxLength: 70 });
  const frames = fc.array(fc.array(buffer, { minLength: 1, maxLength: 5 }), { minLength: 1, maxLength: 40 });
  const batches = fc.array(fc.tuple(frames, fc.constantFrom(UNDIRECTED, INBOUND, OUTBOUND)), {
    maxLength: 4,
  });
  fc.assert(
    fc.property(batches, batches => {
      const file = createCapture(path, 'x');
      const writer = new PcapWriter(file.fd, bench.window);
      const before = BigInt(Date.now()) * 1_000_000n;
      for (const [frames, direction] of batches) {
        bench.fill(batch, frames);
        assert.equal(writer.capture(batch, batch.count, direction), frames.length);
      }
      file.close();
      const after = BigInt(Date.now() + 1) * 1_000_000n;
      const read = readCapture(path);
      assert.equal(read.fault, '');
      const expected = batches.flatMap(([frames]) => frames.map(buffers => hex(Buffer.concat(buffers))));
      assert.deepEqual(
        read.frames.map(({ bytes }) => hex(bytes)),
        expected,
      );
      for (const { ns } of read.frames) assert.ok(before <= ns! && ns! <= after, `${before} ${ns} ${after}`);
      assert.equal(writer.errors, 0);
    }),
    { numRuns: 60 },
  );
});

test('frames with a stamp have it as their time, and their mark in a comment; others stay as they are', t => {
  const path = join(folder(t), 'f');
  const file = createCapture(path, 'x');
  const writer = new PcapWriter(file.fd, bench.window);
  const stamps = [1n, 0n, 0x1122_3344_5566_7788n, 1_700_000_000_123_456_789n];
  const marks = [0, 0, 0x00c0_ffee, 0xffff_ffff];
  const written = (metadata: number, direction: number) => {
    // Lengths of every remainder by 4, since padding lies between a frame and its comment.
    bench.fill(
      batch,
      stamps.map((_, i) => frame(60 + i, i)),
    );
    const frames = bench.window.words[(batch.address + D.BATCH_FRAMES) >>> 2]!;
    for (const [i, stamp] of stamps.entries()) {
      batch.setStamp(i, Number(stamp >> 32n), Number(stamp & 0xffff_ffffn));
      bench.window.words[(frames + i * D.FRAME_SIZE + D.FRAME_MARK) >>> 2] = marks[i]!;
    }
    bench.window.words[(batch.address + D.BATCH_METADATA) >>> 2] = metadata;
    assert.equal(writer.capture(batch, 4, direction), 4);
  };
  for (const [metadata, direction] of [
    [1, UNDIRECTED],
    [1, INBOUND],
    [0, UNDIRECTED],
    [1, UNDIRECTED],
  ] as const)
    written(metadata, direction);
  bench.window.words[(batch.address + D.BATCH_METADATA) >>> 2] = 0;
  file.close();
  const { frames, fault } = readCapture(path);
  assert.equal(fault, '');
  const bytes = readFileSync(path);
  for (const [n, { ns, bytes: own }] of frames.entries()) {
    const i = n % 4;
    const stamped = (n < 4 || n >= 12) && stamps[i] !== 0n;
    assert.equal(hex(own), hex(Buffer.concat(frame(60 + i, i))));
    assert.equal(ns === stamps[i], stamped, `time of frame ${n}`);
    const comment = `flow mark 0x${marks[i]!.toString(16).padStart(8, '0')}`;
    const at = bytes.indexOf(own) + own.length;
    assert.ok(at > own.length);
    bytes.fill(0xff, at - own.length, at); // found once
    assert.equal(bytes.toString('latin1', at, at + 40).includes(comment), stamped, `comment of frame ${n}`);
  }
  assert.equal(frames.length, 16);
});

test('a batch of more buffers than one system call takes', t => {
  const path = join(folder(t), 'f');
  const file = createCapture(path, 'x');
  const frames = Array.from({ length: 40 }, (_, f) =>
    Array.from({ length: 60 }, (_, b) => Uint8Array.from(numbered(1 + (f % 3), f + b))),
  );
  const writer = new PcapWriter(file.fd, bench.window);
  bench.fill(batch, frames);
  assert.equal(writer.capture(batch, 40, INBOUND), 40);
  file.close();
  const { frames: seen, fault } = readCapture(path);
  assert.equal(fault, '');
  assert.deepEqual(
    seen.map(({ bytes }) => hex(bytes)),
    frames.map(buffers => hex(Buffer.concat(buffers))),
  );
});

test('tshark and capinfos agree on count, lengths, times, directions and bytes', t => {
  if (!haveTshark(t)) return;
  const path = join(folder(t), 'f');
  const file = createCapture(path, 'vm0');
  const writer = new PcapWriter(file.fd, bench.window);
  for (const direction of [UNDIRECTED, INBOUND, OUTBOUND]) {
    bench.fill(
      batch,
      [60, 61, 62, 63, 1514].map((length, i) => frame(length, i)),
    );
    assert.equal(writer.capture(batch, 5, direction), 5);
  }
  file.close();
  const ours = readCapture(path).frames;
  assert.equal(ours.length, 15);
  assert.deepEqual(
    tshark(path),
    ours.map(({ bytes, original, ns }, i) => ({
      captured: bytes.length,
      original,
      ns,
      flags: [UNDIRECTED, INBOUND, OUTBOUND][Math.floor(i / 5)],
      hex: hex(bytes),
    })),
  );
  const facts = run('capinfos', ['-M', path]);
  assert.match(facts, /Number of packets:\s+15\n/);
  assert.match(facts, /Name = vm0/);
  assert.match(facts, /Time precision = nanoseconds/);
  assert.match(facts, /Capture length = 262144/);
});

test('a frame beyond the snap length is cut, and says how long it was', t => {
  const path = join(folder(t), 'f');
  const file = createCapture(path, 'x');
  bench.fill(batch, [[new Uint8Array(MAX_FRAME), new Uint8Array(9)], ...[frame(60)]]);
  assert.equal(new PcapWriter(file.fd, bench.window).capture(batch, 2, UNDIRECTED), 2);
  file.close();
  const { frames } = readCapture(path);
  assert.deepEqual(
    frames.map(({ bytes, original }) => [bytes.length, original]),
    [
      [MAX_FRAME, MAX_FRAME + 9],
      [60, 60],
    ],
  );
});

test('the file is private, emptied first, and links are followed', t => {
  const at = folder(t);
  const [path, link] = [join(at, 'f'), join(at, 'l')];
  symlinkSync(path, link);
  createCapture(link, 'x').close();
  assert.equal(readlinkSync(link), path);
  assert.equal(statSync(path).mode & 0o777, 0o600);
  const { size } = statSync(path);
  appendFileSync(path, 'more');
  createCapture(path, 'x').close();
  assert.equal(statSync(path).size, size);
});

test('no capture into what is no file, or into the file that is read', t => {
  const at = folder(t);
  const [pipe, path] = [join(at, 'pipe'), join(at, 'f')];
  run('mkfifo', [pipe]);
  writeFileSync(path, 'precious');
  assert.throws(() => createCapture('/dev/null', 'x'), { code: 'CAPTURE_FILE' });
  assert.throws(() => createCapture(pipe, 'x'), { code: 'ENXIO' });
  assert.throws(() => createCapture(join(at, 'no', 'f'), 'x'), { code: 'ENOENT' });
  assert.throws(() => createCapture(path, 'x', statSync(path, { bigint: true })), { code: 'CAPTURE_FILE' });
  assert.equal(readFileSync(path, 'utf8'), 'precious');
});

test('a disk that fills up costs frames, never the file, and writing goes on when there is room', t => {
  const at = folder(t);
  const mount = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'polynic', at]);
  if (mount.status !== 0) return t.skip('needs the right to mount a file system of 64 KiB');
  const [path, ballast] = [join(at, 'f'), join(at, 'ballast')];
  try {
    writeFileSync(ballast, new Uint8Array(20_000));
    const file = createCapture(path, 'x');
    const writer = new PcapWriter(file.fd, bench.window);
    bench.fill(
      batch,
      Array.from({ length: 10 }, (_, i) => frame(1000 + i)),
    );
    let written = 0;
    let short = 0;
    for (let i = 0; i < 8; i++) {
      const got = writer.capture(batch, 10, INBOUND);
      written += got;
      if (got < 10) short++;
    }
    assert.ok(short > 0 && written > 10);
    assert.equal(writer.errors, short);
    const full = readCapture(path);
    assert.deepEqual([full.frames.length, full.fault], [written, '']);

    rmSync(ballast);
    assert.equal(writer.capture(batch, 10, OUTBOUND), 10);
    file.close();
    const { frames, fault } = readCapture(path);
    assert.deepEqual([frames.length, fault], [written + 10, '']);
    assert.deepEqual([...frames.at(-1)!.bytes], numbered(1009));
  } finally {
    run('umount', [at]);
  }
});

test('when the descriptor takes nothing, nothing is counted as written', () => {
  const writer = new PcapWriter(-1, bench.window);
  bench.fill(batch, [frame(60)]);
  assert.equal(writer.capture(batch, 1, INBOUND), 0);
  assert.equal(writer.errors, 1);
  assert.equal(writer.capture(batch, 0, INBOUND), 0);
  assert.equal(writer.errors, 1);
});

test('after SIGKILL the file is readable up to the last whole block', async t => {
  const path = join(folder(t), 'f');
  const module = (name: string) => JSON.stringify(new URL(name, import.meta.url).href);
  const script = `
    import { createCapture } from ${module('./head.js')};
    import { PcapWriter } from ${module('./writer.js')};
    import { Bench } from ${module('./testing.js')};
    const bench = new Bench();
    const batch = bench.batch();
    const writer = new PcapWriter(createCapture(process.argv[1], 'x').fd, bench.window);
    bench.fill(batch, Array.from({ length: 128 }, (_, i) => [new Uint8Array(64 + i * 11).fill(i)]));
    for (let i = 0; i < 1000; i++) {
      writer.capture(batch, 128, 1);
      if (i === 100) process.stdout.write('running');
    }
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script, path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = once(child, 'exit');
  await once(child.stdout, 'data');
  child.kill('SIGKILL');
  assert.deepEqual(await ended, [null, 'SIGKILL']);
  assert.ok(existsSync(path));

  const whole = readCapture(path);
  assert.ok(whole.frames.length >= 101 * 128, `${whole.frames.length} frames`);
  assert.match(whole.fault, /^$|ends within a block/);
  for (const [i, { bytes }] of whole.frames.entries()) {
    assert.ok(bytes.length === 64 + (i % 128) * 11 && bytes.every(byte => byte === i % 128));
  }
  // The worst a kill can leave: the last block in part.
  truncateSync(path, statSync(path).size - 5);
  const cut = readCapture(path);
  assert.match(cut.fault, /ends within a block/);
  assert.ok(cut.frames.length >= whole.frames.length - 1);
});
