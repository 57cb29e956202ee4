/**
 * A device type from outside, on a link: what a capture file knows of a frame, beside its bytes, comes out at the guest.
 *
 * ```
 *   F ── pcap:in ── serve --device stamp_ring.js ── ring: bytes, stamp, mark ── guest ── pcap:out ── G
 * ```
 */
import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { CaptureReader, FRAME } from '../../src/port/pcapng/index.js';
import { padded } from '../../src/port/pcapng/layout.js';
import { haveTshark, nanoseconds, run } from '../../src/port/pcapng/testing.js';
import { STAMP_RING } from '../compliance/types.js';
import { linkTest } from './harness.js';
import { PATIENCE_MS, Program } from './program.js';
import { udpFlood } from './udp-flood.js';

const FRAMES = 3000;
/** Datagrams under way at most: less than a TAP's queue holds, so that only the cable itself could lose one. */
const WINDOW = 256;

interface Known {
  readonly ns: bigint;
  readonly mark: number;
  readonly bytes: Buffer;
}

/** FNV-1a, 32 bits. */
const fnv = (bytes: Iterable<number>): number =>
  [...bytes].reduce((hash, byte) => Math.imul(hash ^ byte, 0x01000193) >>> 0, 0x811c9dc5);

const u16 = (value: number): number[] => [value >> 8, value & 255];

/** The n-th frame: its bytes, and the part of them that its mark is made of, null for no IP. */
function frame(n: number): { bytes: Buffer; flow: Buffer | null } {
  const ports = [...u16(1000 + (n % 7)), ...u16(53)];
  const protocol = [6, 17, 132, 1][n % 4]!;
  const hasPorts = protocol !== 1;
  const payload = [...ports, ...Array<number>(20 + ((n * 37) % 1400)).fill(n & 255)];
  const macs = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
  const tag = n % 5 === 0 ? [0x81, 0, 0, 7] : [];
  if (n % 11 === 0) return { bytes: Buffer.from([...macs, 8, 6, ...payload]), flow: null };
  if (n % 3 === 0) {
    const addresses = Array.from({ length: 32 }, (_, i) => (n * i) & 255);
    const ip = [0x60, 0, 0, 0, ...u16(payload.length), protocol, 64, ...addresses];
    const flow = [...addresses, protocol, ...(hasPorts ? ports : [])];
    return { bytes: Buffer.from([...macs, ...tag, 0x86, 0xdd, ...ip, ...payload]), flow: Buffer.from(flow) };
  }
  const addresses = [10, 0, 0, n % 9, 10, 0, 1, 1];
  const options = n % 2 === 0 ? [1, 1, 1, 1] : [];
  const fragment = n % 13 === 0 ? 0x2000 : 0;
  const length = 20 + options.length + payload.length;
  const ip = [0x45 + options.length / 4, 0, ...u16(length), 0, 0, ...u16(fragment), 64, protocol, 0, 0];
  const flow = [...addresses, protocol, ...(hasPorts && fragment === 0 ? ports : [])];
  const bytes = Buffer.from([...macs, ...tag, 8, 0, ...ip, ...addresses, ...options, ...payload]);
  return { bytes, flow: Buffer.from(flow) };
}

/** Writes F, a classic capture with nanoseconds; returns what is to be found in G. */
function writeCapture(path: string): Known[] {
  const header = Buffer.alloc(24);
  header.writeUInt32LE(0xa1b23c4d);
  header.writeUInt16LE(2, 4);
  header.writeUInt32LE(65535, 16);
  header.writeUInt32LE(1, 20);
  const parts: Uint8Array[] = [header];
  const known = Array.from({ length: FRAMES }, (_, n): Known => {
    const { bytes, flow } = frame(n);
    const [seconds, fraction] = [1_700_000_000 + n * 97, (n * 123_456_789) % 1_000_000_000];
    const record = Buffer.alloc(16);
    for (const [i, value] of [seconds, fraction, bytes.length, bytes.length].entries())
      record.writeUInt32LE(value, 4 * i);
    parts.push(record, bytes);
    return { ns: BigInt(seconds) * 1_000_000_000n + BigInt(fraction), mark: flow ? fnv(flow) : 0, bytes };
  });
  writeFileSync(path, Buffer.concat(parts));
  return known;
}

/** Everything in G. */
function readStamped(path: string): Known[] {
  const file = readFileSync(path);
  const fd = openSync(path, 'r');
  try {
    const reader = new CaptureReader(fd);
    const seen: Known[] = [];
    while (reader.next() === FRAME) {
      const bytes = file.subarray(reader.position, reader.position + reader.length);
      const option = reader.position + padded(reader.length);
      assert.deepEqual([file.readUInt16LE(option), file.readUInt16LE(option + 2)], [1, 20], 'a comment');
      const [, hex] = /^flow mark 0x([0-9a-f]{8})$/.exec(file.toString('latin1', option + 4, option + 24))!;
      seen.push({ ns: nanoseconds(reader), mark: Number.parseInt(hex!, 16), bytes });
    }
    assert.equal(reader.fault, '');
    return seen;
  } finally {
    closeSync(fd);
  }
}

test(`${FRAMES} frames of a capture come out with the times they had, and with their flows' marks`, async t => {
  const folder = mkdtempSync(join(tmpdir(), 'polynic-stamps-'));
  const [from, to, socket] = ['F.pcap', 'G.pcapng', 's'].map(name => join(folder, name)) as [
    string,
    string,
    string,
  ];
  const known = writeCapture(from);
  const child = ['--child-of', String(process.pid)];
  const common = ['--bpfhv-proxy', socket, ...child];
  const guest = new Program(['guest', ...common, '--netdev', `pcap:out=${to}`]);
  const serve = new Program(['serve', ...common, '--device', STAMP_RING, '--port', `pcap:in=${from}`]);
  try {
    const until = performance.now() + PATIENCE_MS;
    while ((await guest.counters()).port.sent < FRAMES) {
      assert.ok(performance.now() < until, `${guest.output}\n${serve.output}`);
      await setImmediate();
    }
    await guest.end();
    await serve.end();
    for (const { ending, left, output } of [guest, serve]) {
      assert.deepEqual(ending, { code: 0, signal: null }, output);
      assert.deepEqual(left, { fds: 0, mappings: 0, buffers: 0 }, output);
    }
    const seen = readStamped(to);
    assert.equal(seen.length, FRAMES);
    for (const [i, { ns, mark, bytes }] of seen.entries()) {
      assert.equal(ns, known[i]!.ns, `time of frame ${i}`);
      assert.equal(mark, known[i]!.mark, `mark of frame ${i}`);
      assert.ok(bytes.equals(known[i]!.bytes), `bytes of frame ${i}`);
    }
    assert.ok(new Set(seen.map(({ mark }) => mark)).size > 200, 'marks differ');
    if (!haveTshark(t)) return;
    const lines = run('tshark', [
      ...['-r', to, '-T', 'fields', '-e', 'frame.time_epoch', '-e', 'frame.comment'],
    ]);
    const expected = known.map(({ ns, mark }) => {
      const time = `${ns / 1_000_000_000n}.${String(ns % 1_000_000_000n).padStart(9, '0')}`;
      return `${time}\tflow mark 0x${mark.toString(16).padStart(8, '0')}`;
    });
    assert.deepEqual(lines.trimEnd().split('\n'), expected);
  } finally {
    for (const program of [guest, serve]) if (program.alive) await program.end('SIGKILL');
    rmSync(folder, { recursive: true });
  }
});

linkTest('over TAPs frames travel as with any other type', { serve: ['--device', STAMP_RING] }, (link, t) =>
  udpFlood(link, t, 20_000, 0),
);

linkTest('a running guest changes to it and back: no datagram is lost', {}, async link => {
  const { guestEnd, hostEnd } = link;
  const flows = [
    await link.flow(guestEnd, hostEnd, { seed: 71, window: WINDOW }),
    await link.flow(hostEnd, guestEnd, { seed: 72, window: WINDOW }),
  ];
  for (const device of [STAMP_RING, 'sring_gso', STAMP_RING, 'sring']) {
    const answer = (await link.serve.request({ op: 'upgrade', device })) as { ok?: { to: string } };
    assert.equal(answer.ok?.to, device, JSON.stringify(answer));
    await Promise.all(flows.map(flow => flow.more(1000)));
  }
  for (const flow of flows) {
    const { sent, got } = await flow.stop();
    const { packets, corrupt, repeated, late } = got;
    assert.deepEqual(
      { packets, corrupt, repeated, late },
      { packets: sent.packets, corrupt: 0, repeated: 0, late: 0 },
    );
  }
});
