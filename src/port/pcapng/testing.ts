/** What the tests of capture files share: batches filled by hand, files written field by field, files read whole, and other people's tools. */
import { spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import * as D from '../../../datapath/layout.js';
import { addressOf } from '../../linux/libc.js';
import { Arena } from '../../memory/arena.js';
import { Window } from '../../memory/window.js';
import { Batch } from '../../ring/batch.js';
import { padded } from './layout.js';
import { CaptureReader, FRAME } from './reader.js';

/** A folder of the test's own. */
export function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), 'polynic-pcap-'));
  t.after(() => rmSync(path, { recursive: true }));
  return path;
}

// ---- batches ----

/** Buffers of a frame, header and spill included. */
const MAX_BUFFERS = D.CTX_MAX_BUFS + 2;

/** One window serves all tests of a file. */
export class Bench {
  readonly window: Window;
  readonly arena: Arena;
  /** Longer than a batch's own list, for frames of as many buffers as can be. */
  readonly #iovecs: number;
  readonly #windows: number;
  /** What the batch points to, which an address alone does not keep alive. */
  kept: readonly Uint8Array[] = [];

  /** @param host where there is a window already: a process has room for few */
  constructor(host?: { window: Window; arena: Arena }) {
    this.window = host?.window ?? Window.create();
    this.arena = host?.arena ?? new Arena(this.window);
    this.#iovecs = this.arena.allocate(D.MAX_BATCH * MAX_BUFFERS * D.IOVEC_SIZE);
    this.#windows = this.arena.allocate(D.MAX_BATCH * MAX_BUFFERS * 4);
  }

  close(): void {
    this.arena.free(this.#iovecs);
    this.arena.free(this.#windows);
  }

  batch(): Batch {
    return Batch.allocate(this.window, this.arena);
  }

  /** Makes `batch` a batch of `frames`, each a list of buffers, in the window or anywhere else. */
  fill(batch: Batch, frames: readonly (readonly Uint8Array[])[], receive = false): void {
    const { window } = this;
    const word = (address: number) => window.words[address >>> 2]!;
    const set = (address: number, value: number) => {
      window.words[address >>> 2] = value;
    };
    this.kept = frames.flat();
    let iov = this.#iovecs;
    let win = this.#windows;
    for (const [i, buffers] of frames.entries()) {
      const bytes = buffers.reduce((sum, buffer) => sum + buffer.length, 0);
      const frame = word(batch.address + D.BATCH_FRAMES) + i * D.FRAME_SIZE;
      set(frame + D.FRAME_IOV, iov);
      set(frame + D.FRAME_IOVS, 1 + buffers.length);
      set(frame + D.FRAME_LENGTH, bytes);
      set(frame + D.FRAME_ROOM, receive ? bytes : 0);
      const put = (address: number, length: number) => {
        window.longs[iov / 8] = BigInt(address);
        window.longs[iov / 8 + 1] = BigInt(length);
        iov += D.IOVEC_SIZE;
      };
      const header = word(batch.address + D.BATCH_HEADERS) + i * D.VNET_HEADER_STRIDE;
      window.bytes.fill(0, header, header + D.VNET_HEADER_SIZE);
      set(frame + D.FRAME_HEADER, header);
      put(window.base + header, D.VNET_HEADER_SIZE);
      set(frame + D.FRAME_WIN, win);
      for (const buffer of buffers) {
        put(buffer.length === 0 ? 0 : addressOf(buffer), buffer.length);
        set(win, buffer.buffer === window.memory.buffer ? buffer.byteOffset : 0);
        win += 4;
      }
      put(window.base + word(batch.address + D.BATCH_SPILL), D.SPILL_SIZE);
    }
    set(batch.address + D.BATCH_COUNT, frames.length);
  }
}

// ---- files ----

export interface Seen {
  readonly bytes: Uint8Array;
  readonly original: number;
  readonly ns: bigint | null;
  readonly interfaceId: number;
}

/** All that our reader finds in a file. */
export function readCapture(path: string): { frames: Seen[]; fault: string } {
  const fd = openSync(path, 'r');
  try {
    const reader = new CaptureReader(fd);
    const frames: Seen[] = [];
    while (reader.next() === FRAME) {
      const bytes = new Uint8Array(reader.length);
      readSync(fd, bytes, 0, reader.length, reader.position);
      const ns = reader.timed ? nanoseconds(reader) : null;
      frames.push({ bytes, original: reader.originalLength, ns, interfaceId: reader.interfaceId });
    }
    return { frames, fault: reader.fault };
  } finally {
    closeSync(fd);
  }
}

/** When the frame was seen. */
export function nanoseconds(reader: CaptureReader): bigint {
  const { high, low } = reader.time();
  return (BigInt(high) << 32n) | BigInt(low);
}

/** Writes capture files field by field, right or wrong. */
export class Pen {
  readonly #little: boolean;

  constructor(little: boolean) {
    this.#little = little;
  }

  u16 = (...values: number[]): number[] =>
    values.flatMap(v => (this.#little ? [v & 255, (v >> 8) & 255] : [(v >> 8) & 255, v & 255]));
  u32 = (...values: number[]): number[] =>
    values.flatMap(v => (this.#little ? this.u16(v & 0xffff, v >>> 16) : this.u16(v >>> 16, v & 0xffff)));

  /** A block; `lengths` replaces the two that are right. */
  block(type: number, body: readonly number[], lengths: { head?: number; tail?: number } = {}): number[] {
    const length = 12 + padded(body.length);
    const padding = Array<number>(padded(body.length) - body.length).fill(0);
    return [
      ...this.u32(type, lengths.head ?? length),
      ...body,
      ...padding,
      ...this.u32(lengths.tail ?? lengths.head ?? length),
    ];
  }
  option = (code: number, value: readonly number[]): number[] => [
    ...this.u16(code, value.length),
    ...value,
    ...Array<number>(padded(value.length) - value.length).fill(0),
  ];
  section = (major = 1, magic = 0x1a2b3c4d): number[] =>
    this.block(0x0a0d0d0a, [...this.u32(magic), ...this.u16(major, 0), ...this.u32(0xffffffff, 0xffffffff)]);
  interface = (link = 1, snap = 0, options: readonly number[] = []): number[] =>
    this.block(1, [...this.u16(link, 0), ...this.u32(snap), ...options]);
  packet = (
    bytes: readonly number[],
    { id = 0, high = 0, low = 0, captured = bytes.length, options = [] as number[] } = {},
  ) =>
    this.block(6, [
      ...this.u32(id, high, low, captured, bytes.length),
      ...bytes,
      ...Array<number>(padded(bytes.length) - bytes.length).fill(0),
      ...options,
    ]);
  simple = (original: number, bytes: readonly number[]): number[] =>
    this.block(3, [...this.u32(original), ...bytes]);

  classic = (magic: number, link = 1, major = 2): number[] => [
    ...this.u32(magic),
    ...this.u16(major, 4),
    ...this.u32(0, 0, 65535, link),
  ];
  record = (
    seconds: number,
    fraction: number,
    bytes: readonly number[],
    captured = bytes.length,
  ): number[] => [...this.u32(seconds, fraction, captured, bytes.length), ...bytes];
}

export function writeBytes(path: string, ...parts: readonly (readonly number[])[]): string {
  writeFileSync(path, Uint8Array.from(parts.flat()));
  return path;
}

/** `n` bytes that can be told from others. */
export const numbered = (n: number, from = 0): number[] =>
  Array.from({ length: n }, (_, i) => (from + i) & 255);

// ---- other people's tools ----

/** True when Wireshark's command-line tools are here; else the test is skipped and says what installs them. */
export function haveTshark(t: TestContext): boolean {
  if (['tshark', 'capinfos', 'editcap'].every(tool => spawnSync(tool, ['--version']).status === 0))
    return true;
  t.skip('needs tshark, capinfos and editcap: npm run setup:system');
  return false;
}

/** Runs a tool; returns its standard output. Throws what it said when it fails. */
export function run(tool: string, args: readonly string[]): string {
  const { status, stdout, stderr, error } = spawnSync(tool, args, { encoding: 'utf8' });
  if (error) throw error;
  if (status !== 0) throw new Error(`${tool} ${args.join(' ')}: ${stderr}`);
  return stdout;
}

/** What tshark sees of each frame: captured length, original length, nanoseconds, direction (1 in, 2 out, 0 neither), bytes. */
export function tshark(
  path: string,
): { captured: number; original: number; ns: bigint; flags: number; hex: string }[] {
  const fields = ['frame.cap_len', 'frame.len', 'frame.time_epoch', 'frame.packet_flags_direction'];
  const lines = run('tshark', ['-r', path, '-T', 'fields', ...fields.flatMap(field => ['-e', field])]);
  const dump = run('tshark', ['-r', path, '-T', 'jsonraw', '-j', 'frame']);
  const raw = JSON.parse(dump) as { _source: { layers: { frame_raw: [string] } } }[];
  return lines
    .split('\n')
    .slice(0, -1)
    .map((line, i) => {
      const [captured, original, epoch, flags] = line.split('\t') as [string, string, string, string];
      const hex = raw[i]!._source.layers.frame_raw[0];
      return {
        captured: Number(captured),
        original: Number(original),
        ns: BigInt(epoch.replace('.', '')),
        flags: Number(flags || 0),
        hex,
      };
    });
}
