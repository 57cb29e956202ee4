/**
 * pcap: capture files as a network. Frames come from one file and go into another; either may be missing.
 *
 *   pcap:in=FILE       hands out the frames of a pcapng or pcap file once, in order, as fast as they are taken; then it is exhausted
 *   pcap:out=FILE      appends what it is given to a pcapng file, which it creates or empties
 *
 * Timestamps of the input are not followed; a ring that carries them gets them as they are recorded, and of frames that came with stamp
 * and mark (batch.metadata) the file has both: the stamp as the packet's time, the mark in its comment. Frames that a capture cut short are handed out as short as they are. Without `in` no frame
 * ever comes, without `out` all are dropped, and counted so; likewise when the disk is full. Where `in` is damaged it ends, with one error.
 * Both must be regular files. What asks for its checksum or to be cut is in the file as it would be on the wire (soften.ts).
 */
import { fstatSync } from 'node:fs';
import * as L from '../../datapath/layout.js';
import { check, LinuxError } from '../linux/errors.js';
import { OwnedFd } from '../linux/fd.js';
import { open as openFile } from '../linux/libc.js';
import type { Window } from '../memory/window.js';
import type { Batch } from '../ring/batch.js';
import type { DatapathExports } from '../ring/datapath.js';
import { add, readCounters } from './counters.js';

import {
  CaptureFileError,
  CaptureReader,
  createCapture,
  END,
  FRAME,
  PayloadReader,
  PcapWriter,
  UNDIRECTED,
} from './pcapng/index.js';
import {
  type Port,
  type PortDescriptor,
  PortError,
  type PortHandle,
  type PortHost,
  type PortKind,
  type PortWorker,
} from './port.js';
import { OUTLET_BYTES, Outlet, prepareOutlet } from './soften.js';

const O_RDONLY_NOCTTY_NONBLOCK_CLOEXEC = 0o400 | 0o4000 | 0o2000000;

/** State behind the counters: f64, how far the input has been read, so that another worker can go on there; where large frames are cut. */
const STATE_POSITION = L.PORT_SIZE;
const OUTLET = L.PORT_SIZE + 64;
const STATE_SIZE = OUTLET + OUTLET_BYTES;

/** An Ethernet header; what is shorter is no frame. */
const MIN_FRAME = 14;
/** Blocks of the input that one `get` looks at. */
const BUDGET = 1024;

class PcapPort implements Port {
  readonly fd = -1;
  exhausted: boolean;
  readonly #window: Window;
  readonly #calls: DatapathExports;
  readonly #state: number;
  readonly #reader: CaptureReader;
  readonly #payload: PayloadReader;
  readonly #writer: PcapWriter | null;
  readonly #outlet: Outlet;
  /** The reader has found a frame that was not handed out yet. */
  #held = false;

  constructor({ fds, state }: PortDescriptor, worker: PortWorker) {
    const { window, calls } = worker;
    const [input, output] = fds as [number, number];
    this.exhausted = input < 0;
    this.#window = window;
    this.#calls = calls;
    this.#state = state;
    this.#reader = new CaptureReader(input);
    this.#payload = new PayloadReader(input, window.doubles[(state + STATE_POSITION) / 8]!, window);
    this.#writer = output < 0 ? null : new PcapWriter(output, window);
    this.#outlet = new Outlet(worker, state + OUTLET);
  }

  put(batch: Batch): number {
    const { count } = batch;
    if (this.#writer === null) this.#add(L.PORT_DROPPED, count);
    else this.#write(this.#writer, batch, count);
    return count;
  }

  /** A file has nobody behind it who would finish checksums, or cut: it gets what would be on the wire. */
  #write(writer: PcapWriter, batch: Batch, count: number): void {
    const { errors } = writer;
    for (let first = 0; first < count; ) {
      let end = first;
      while (end < count && !batch.asksToBeCut(end)) end++;
      this.#calls.checksums_finish(batch.address, end - first, first);
      this.#append(writer, batch, end - first, first);
      this.#calls.checksums_restore(batch.address, end - first, first);
      if (end < count) this.#cut(writer, batch, end++);
      first = end;
    }
    if (writer.errors !== errors) this.#add(L.PORT_ERRORS, 1);
  }

  #cut(writer: PcapWriter, batch: Batch, i: number): void {
    const { pieces } = this.#outlet;
    this.#add(this.#outlet.begin(batch, i) ? L.PORT_SOFTENED : L.PORT_DROPPED, 1);
    while (this.#outlet.fill() > 0) this.#append(writer, pieces, pieces.count, 0);
  }

  #append(writer: PcapWriter, batch: Batch, n: number, first: number): void {
    const sent = writer.capture(batch, n, UNDIRECTED, first);
    this.#add(L.PORT_SENT, sent);
    if (sent < n) this.#add(L.PORT_DROPPED, n - sent);
  }

  get(batch: Batch): number {
    if (this.exhausted) return 0;
    const { count, metadata: stamps } = batch;
    const reader = this.#reader;
    const payload = this.#payload;
    reader.budget = BUDGET;
    let added = 0;
    let filled = 0;
    while (added < count && this.#find(batch.room(added))) {
      const buffers = batch.iovs(added);
      if (!payload.approach(reader.position, buffers)) {
        const flushed = payload.flush();
        filled += flushed;
        if (flushed === 0 || !payload.approach(reader.position, buffers)) break;
      }
      payload.add(reader.position, reader.length, batch, added);
      if (stamps && reader.timed) {
        const { high, low } = reader.time();
        batch.setStamp(added, high, low);
      }
      batch.setLength(added++, reader.length);
      this.#held = false;
    }
    filled += payload.flush();
    if (payload.failed) this.#fail();
    this.#window.doubles[(this.#state + STATE_POSITION) / 8] = payload.position;
    this.#add(L.PORT_RECEIVED, filled);
    return filled;
  }

  /** Finds the next frame that can be handed out into buffers of `room` bytes. */
  #find(room: number): boolean {
    const reader = this.#reader;
    for (;;) {
      if (!this.#held) {
        const found = reader.next();
        if (found === END) {
          this.exhausted = true;
          if (reader.fault !== '') this.#fail();
        }
        if (found !== FRAME) return false;
      }
      this.#held = false;
      if (reader.position < this.#payload.position) continue; // another worker had it
      if (reader.length < MIN_FRAME) this.#add(L.PORT_DROPPED, 1);
      else if (reader.length > room) this.#add(L.PORT_TOO_LONG, 1);
      else return (this.#held = true);
    }
  }

  #fail(): void {
    this.exhausted = true;
    this.#add(L.PORT_ERRORS, 1);
  }

  #add(field: number, n: number): void {
    add(this.#window, this.#state, field, n);
  }
}

function open(options: ReadonlyMap<string, string>, { window, arena }: PortHost): PortHandle {
  const [input, output] = [options.get('in'), options.get('out')];
  if (!(input ?? output) || input === '' || output === '') {
    throw new PortError('PORT_SPEC', `pcap: it needs a file to read or to write: ${pcap.usage}`);
  }
  const files: OwnedFd[] = [];
  const closeFiles = () => {
    for (const file of files) file.close();
  };
  try {
    const source = input === undefined ? null : openInput(input);
    if (source) files.push(source);
    const identity = source ? fstatSync(source.fd, { bigint: true }) : undefined;
    const target = output === undefined ? null : createCapture(output, 'pcap', identity);
    if (target) files.push(target);
    const state = arena.allocate(STATE_SIZE);
    prepareOutlet(window, state + OUTLET);
    // A file is one stream of frames.
    const fds = [source?.fd ?? -1, target?.fd ?? -1];
    const lanes = [{ kind: 'pcap', name: input ?? output!, state, fds, options: {} }];
    return {
      lanes,
      counters: () => readCounters(window, lanes),
      close() {
        closeFiles();
        arena.free(state);
      },
    };
  } catch (error) {
    closeFiles();
    if (error instanceof LinuxError || error instanceof CaptureFileError) {
      throw new PortError('PORT_OPEN', `pcap: ${error.message}`);
    }
    throw error;
  }
}

/** Opens the file and looks at its head. */
function openInput(path: string): OwnedFd {
  const file = new OwnedFd(check(openFile(path, O_RDONLY_NOCTTY_NONBLOCK_CLOEXEC), 'open', path), path);
  try {
    if (!fstatSync(file.fd).isFile()) throw new CaptureFileError(`${path} is no regular file`);
    const reader = new CaptureReader(file.fd);
    reader.readHead();
    if (reader.fault !== '') throw new CaptureFileError(`${path} ${reader.fault}`);
    return file;
  } catch (error) {
    file.close();
    throw error;
  }
}

export const pcap: PortKind = {
  kind: 'pcap',
  usage: 'pcap:in=FILE,out=FILE',
  options: ['in', 'out'],
  open,
  attach: (descriptor, worker) => new PcapPort(descriptor, worker),
};
