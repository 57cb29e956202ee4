/** What the tests of this folder share: the recordings, a NIC that only takes notes, and a channel without a kernel. */
import { readFileSync } from 'node:fs';
import { EventFd } from '../../linux/eventfd.js';
import type { OwnedFd } from '../../linux/fd.js';
import { createMemfd } from '../../linux/memfd.js';
import {
  type Direction,
  type MemoryRegionSpec,
  type NicControl,
  NicError,
  type NicParameters,
} from '../../nic/control.js';
import type { Channel, Received } from './channel.js';
import { HEADER_SIZE, type RequestName } from './messages.js';

export const RECORDINGS = ['sring', 'sring_gso_all_offloads', 'vring_packed'] as const;

/** A request and its response, header and payload in one. */
export interface Exchange {
  readonly name: RequestName;
  readonly request: Uint8Array;
  readonly requestFds: readonly string[];
  readonly response: Uint8Array;
  readonly responseFds: readonly string[];
}

/** Reads test/data/bpfhv-proxy/NAME.txt; the README beside it describes the form. */
export function readRecording(name: (typeof RECORDINGS)[number]): Exchange[] {
  const text = readFileSync(
    new URL(`../../../../test/data/bpfhv-proxy/${name}.txt`, import.meta.url),
    'utf8',
  );
  const messages: { fromHypervisor: boolean; name: RequestName; bytes: Uint8Array; fds: string[] }[] = [];
  for (const line of text.split('\n')) {
    const title = /^(QEMU|BE)->\w+ (\w+) .* size=(\d+) +fds=\[(.*)\]$/.exec(line);
    const row = /^ +(hdr|[0-9a-f]{4}) +([0-9a-f ]+)$/.exec(line);
    if (title) {
      const [, from, request, size, fds] = title as unknown as [string, string, RequestName, string, string];
      const bytes = new Uint8Array(HEADER_SIZE + Number(size));
      messages.push({
        fromHypervisor: from === 'QEMU',
        name: request,
        bytes,
        fds: fds === '' ? [] : fds.split(', '),
      });
    } else if (row) {
      const at = row[1] === 'hdr' ? 0 : HEADER_SIZE + Number.parseInt(row[1]!, 16);
      messages.at(-1)!.bytes.set(Buffer.from(row[2]!.replaceAll(' ', ''), 'hex'), at);
    } else if (line !== '' && line !== '<EOF>' && !line.startsWith('   ....')) {
      throw new Error(`${name}: no idea what this line is: ${line}`);
    }
  }
  const exchanges: Exchange[] = [];
  for (let i = 0; i < messages.length; i += 2) {
    const [asked, answered] = [messages[i]!, messages[i + 1]!];
    if (!asked.fromHypervisor || answered.fromHypervisor)
      throw new Error(`${name}: message ${i} is out of turn`);
    exchanges.push({
      name: asked.name,
      request: asked.bytes,
      requestFds: asked.fds,
      response: answered.bytes,
      responseFds: answered.fds,
    });
  }
  return exchanges;
}

/** Holds what it is given, as a NIC does, and writes down every call. */
export class NoteTakingNic implements NicControl {
  readonly calls: string[] = [];
  offered = 0n;
  contextSizes = { rxContextSize: 8752, txContextSize: 8752 };
  /** Methods that refuse. */
  readonly refusing = new Set<keyof NicControl>();
  /** When set, every asynchronous method waits for it. */
  gate: Promise<void> | null = null;
  readonly #programs = createMemfd({ name: 'programs', size: 4096 });
  readonly #held = new Map<string, readonly OwnedFd[]>();

  features(): bigint {
    this.#note('features', []);
    return this.offered;
  }

  setFeatures(accepted: bigint): void {
    this.#note('setFeatures', [accepted]);
  }

  setParameters(p: NicParameters): { rxContextSize: number; txContextSize: number } {
    this.#note('setParameters', [p.numRxQueues, p.numTxQueues, p.numRxBufs, p.numTxBufs]);
    return this.contextSizes;
  }

  programs(): OwnedFd {
    this.#note('programs', []);
    return this.#programs;
  }

  async setMemoryTable(regions: readonly MemoryRegionSpec[]): Promise<void> {
    const sizes = regions.map(({ guestPhysicalAddress, size }) => `${guestPhysicalAddress}+${size}`);
    await this.#hold(
      'setMemoryTable',
      sizes,
      'memory',
      regions.map(({ fd }) => fd),
    );
  }

  async setQueueContext(queue: number, guestPhysicalAddress: bigint): Promise<void> {
    await this.gate;
    this.#note('setQueueContext', [queue, guestPhysicalAddress]);
  }

  async setQueueKick(queue: number, fd: OwnedFd | null): Promise<void> {
    await this.#hold('setQueueKick', [queue, fd !== null], `kick ${queue}`, fd === null ? [] : [fd]);
  }

  async setQueueIrq(queue: number, fd: OwnedFd | null): Promise<void> {
    await this.#hold('setQueueIrq', [queue, fd !== null], `irq ${queue}`, fd === null ? [] : [fd]);
  }

  setUpgrade(fd: OwnedFd): void {
    this.#keep('setUpgrade', [], 'upgrade', [fd]);
  }

  async enable(direction: Direction): Promise<void> {
    await this.gate;
    this.#note('enable', [direction]);
  }

  async disable(direction: Direction): Promise<void> {
    await this.gate;
    this.#note('disable', [direction]);
  }

  async disconnect(): Promise<void> {
    await this.gate;
    for (const fds of this.#held.values()) for (const fd of fds) fd.close();
    this.#held.clear();
    this.calls.push('disconnect()');
  }

  close(): void {
    this.#programs.close();
  }

  async #hold(
    method: keyof NicControl,
    args: unknown[],
    place: string,
    fds: readonly OwnedFd[],
  ): Promise<void> {
    await this.gate;
    this.#keep(method, args, place, fds);
  }

  #keep(method: keyof NicControl, args: unknown[], place: string, fds: readonly OwnedFd[]): void {
    try {
      this.#note(method, args);
    } catch (error) {
      for (const fd of fds) fd.close();
      throw error;
    }
    for (const fd of this.#held.get(place) ?? []) fd.close();
    this.#held.set(place, fds);
  }

  #note(method: keyof NicControl, args: unknown[]): void {
    this.calls.push(`${method}(${args.join(', ')})`);
    if (this.refusing.has(method)) throw new NicError('NIC_TEST', `${method} is told to refuse`);
  }
}

/** One piece of a stream, as one receive() gives it when the buffer is large enough. */
export interface Piece {
  readonly bytes: Uint8Array;
  readonly fds?: readonly OwnedFd[];
  readonly fdsLost?: boolean;
}

/** A channel that delivers given pieces and then the end, each one only after a turn of the event loop; keeps what is sent. */
export class ScriptedChannel implements Channel {
  readonly sent: Uint8Array[] = [];
  readonly unsent = 0;
  closed = false;
  readonly #pieces: Piece[];
  #ready = false;

  constructor(pieces: readonly Piece[]) {
    this.#pieces = [...pieces];
  }

  receive(buffer: Uint8Array): Received | null {
    if (!this.#ready) return null;
    this.#ready = false;
    const piece = this.#pieces.shift();
    if (piece === undefined) return { bytes: 0, fds: [], fdsLost: false };
    const bytes = Math.min(piece.bytes.length, buffer.length);
    buffer.set(piece.bytes.subarray(0, bytes));
    if (bytes < piece.bytes.length) this.#pieces.unshift({ bytes: piece.bytes.subarray(bytes) });
    return { bytes, fds: piece.fds ?? [], fdsLost: piece.fdsLost ?? false };
  }

  whenReadable(callback: () => void): void {
    setImmediate(() => {
      this.#ready = true;
      if (!this.closed) callback();
    });
  }

  send(bytes: Uint8Array): void {
    if (this.closed) throw new Error('sent on a closed channel');
    this.sent.push(bytes);
  }

  whenSent(callback: () => void): void {
    callback();
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    for (const { fds } of this.#pieces) for (const fd of fds ?? []) fd.close();
  }
}

/** A file descriptor of its own, for a message to carry. */
export function anFd(name = 'an fd'): OwnedFd {
  return EventFd.create(name).owner;
}
