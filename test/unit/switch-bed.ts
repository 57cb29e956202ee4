/**
 * A switch and stations at its ports, all in one thread, so that a test decides who moves when.
 *
 *   station ── frames, cut as the test likes ──► port.put ══ switch ══ port.get ──► frames
 */
import { test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { openFds } from '../../src/linux/fd.js';
import { Bench } from '../../src/port/pcapng/testing.js';
import type { Port } from '../../src/port/port.js';
import { attachPort } from '../../src/port/registry.js';
import {
  openSwitchPort,
  SWITCH_LIMITS,
  type SwitchLimits,
  type SwitchPort,
} from '../../src/port/switch/index.js';
import type { Batch } from '../../src/ring/batch.js';
import { type DatapathExports, loadDatapath } from '../../src/ring/datapath.js';
import { getHeader, pieces, setHeader } from '../compliance/packets.js';
import { arena, window } from '../compliance/testbed.js';
import type { Ask } from './segment-model.js';

export const { calls } = loadDatapath(window);
/** Beyond what any frame and its spill need. */
const ROOM = 0x14000;
const BROADCAST = 'ff:ff:ff:ff:ff:ff';
export const SECOND = 1e9;

export interface StationOptions {
  readonly isolated?: boolean;
  readonly macAge?: number;
  readonly lanes?: number;
  readonly limits?: Partial<SwitchLimits>;
  readonly name?: string;
  /** Stands between the port and the datapath. */
  readonly calls?: DatapathExports;
}

/** What a station sends: one buffer, or several. */
export interface Sending {
  readonly bytes: Uint8Array;
  readonly ask?: Partial<Ask>;
  /** Bytes of each buffer, as long as there are any. */
  readonly cuts?: readonly number[];
}

export interface Got {
  readonly bytes: Buffer;
  readonly ask: Ask;
}

/** The six bytes of an address written with colons. */
export const mac = (text: string): number[] => text.split(':').map(octet => Number.parseInt(octet, 16));

/** An Ethernet frame of that many bytes; from byte 14 on `fill`. */
export function frame(to: string, from: string, length = 60, fill = 0): Buffer {
  const bytes = Buffer.alloc(Math.max(14, length), fill);
  bytes.set([...mac(to), ...mac(from), 0x88, 0xb5]);
  return bytes.subarray(0, length);
}

/** Window address of the first buffer of a batch's first frame. */
export function bufferOf(batch: Batch): number {
  const word = (address: number) => window.words[address >>> 2]!;
  return word(word(word(batch.address + L.BATCH_FRAMES) + L.FRAME_WIN));
}

export class Station {
  readonly port: SwitchPort;
  readonly lanes: readonly Port[];
  readonly #bench = new Bench({ window, arena });
  readonly #tx = this.#bench.batch();
  readonly #rx = this.#bench.batch();
  readonly #space = arena.allocate(4 * ROOM);

  constructor({
    name = 'lan',
    lanes = 1,
    isolated = false,
    macAge = 300,
    limits,
    ...options
  }: StationOptions = {}) {
    const words = new Map([
      ['_', name],
      ['mac-age', String(macAge)],
    ]);
    if (isolated) words.set('isolated', '');
    this.port = openSwitchPort(words, { window, arena }, lanes, { ...SWITCH_LIMITS, ...limits });
    const worker = { window, calls: options.calls ?? calls };
    this.lanes = this.port.lanes.map(lane => attachPort(lane, worker));
  }

  /** Window address of a lane's state. */
  state(lane = 0): number {
    return this.port.lanes[lane]!.state;
  }

  /** A batch with these frames, to be put. */
  batchOf(sendings: readonly (Sending | Uint8Array)[]): Batch {
    let at = this.#space;
    const all = sendings.map(sending => (sending instanceof Uint8Array ? { bytes: sending } : sending));
    const frames = all.map(({ bytes, cuts = [] }: Sending) => {
      window.bytes.set(bytes, at);
      const buffers: Uint8Array[] = [];
      let left = bytes.length;
      for (const cut of [...cuts, bytes.length]) {
        const n = Math.min(cut, left);
        if (n === 0 && left === 0) break;
        buffers.push(window.bytes.subarray(at, at + n));
        at += n;
        left -= n;
      }
      return buffers.length === 0 ? [window.bytes.subarray(at, at)] : buffers;
    });
    this.#bench.fill(this.#tx, frames);
    for (const [i, { ask }] of all.entries()) if (ask) setHeader(this.#tx, i, ask);
    return this.#tx;
  }

  send(...sendings: (Sending | Uint8Array)[]): number {
    return this.lanes[0]!.put(this.batchOf(sendings));
  }

  /** The same at a time of one's choice, in nanoseconds; nobody is woken. */
  sendAt(now: number, ...sendings: (Sending | Uint8Array)[]): void {
    const batch = this.batchOf(sendings);
    const state = this.state();
    for (let next = 0; next < sendings.length; ) {
      next = calls.switch_put(state, batch.address, next, now);
      if (window.words[(state + L.SWLANE_WAKES) >>> 2] !== 0) calls.switch_leave(state);
    }
  }

  /** Offers room for `frames` frames of `room` bytes each in buffers of `cut` bytes, and takes what comes, once. */
  get(frames = 64, room = 2048, { lane = 0, cut = room } = {}): Got[] {
    const at = (i: number) => this.#space + 2 * ROOM + ((i * room) % ROOM);
    const buffers = (i: number) =>
      Array.from({ length: Math.ceil(room / cut) }, (_, b) =>
        window.bytes.subarray(at(i) + b * cut, at(i) + Math.min(room, (b + 1) * cut)),
      );
    this.#bench.fill(
      this.#rx,
      Array.from({ length: frames }, (_, i) => buffers(i)),
      true,
    );
    const n = this.lanes[lane]!.get(this.#rx);
    return Array.from({ length: n }, (_, i) => ({
      bytes: Buffer.concat(pieces(this.#rx, i, this.#rx.length(i))),
      ask: getHeader(this.#rx, i),
    }));
  }

  /** All that waits, one by one, on all lanes in turn. */
  take(room = 2048): Buffer[] {
    const all: Buffer[] = [];
    for (const lane of this.lanes.keys()) {
      for (let got = this.get(1, room, { lane }); got.length > 0; got = this.get(1, room, { lane })) {
        all.push(got[0]!.bytes);
      }
    }
    return all;
  }

  close(): void {
    this.port.close();
    this.#bench.close();
    for (const address of [this.#tx.address, this.#rx.address, this.#space]) arena.free(address);
  }
}

/** A broadcast from that address: now all know where it is. */
export const hello = (from: string): Buffer => frame(BROADCAST, from);

/** A test whose stations end with it; then nothing may be left of them. */
export function switchTest(
  name: string,
  body: (join: (options?: StationOptions) => Station) => void | Promise<void>,
): void {
  test(name, async () => {
    const held = () => ({ live: arena.live, fds: openFds() });
    const before = held();
    const stations = new Set<Station>();
    try {
      await body(options => {
        const station = new Station(options);
        stations.add(station);
        const { close } = station;
        station.close = () => {
          if (stations.delete(station)) close.call(station);
        };
        return station;
      });
    } finally {
      for (const station of [...stations]) station.close();
    }
    const after = held();
    if (after.live !== before.live || String(after.fds) !== String(before.fds)) {
      throw new Error(`left behind: ${JSON.stringify({ before, after })}`);
    }
  });
}
