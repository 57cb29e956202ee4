/**
 * A vfio-user client made of a bare socket, which can say anything, and a PCI function that only takes notes.
 *
 * ```
 *   Peer ── bytes, fds ──► socket pair ──► serveVfioUser ──► PciFunction
 * ```
 */
import assert from 'node:assert/strict';
import { socketChannel } from '../../src/control/bpfhv-proxy/channel.js';
import {
  type CommandName,
  type CommandValues,
  encodeCommand,
  FLAGS,
  HEADER_SIZE,
  serveVfioUser,
  type VfioServerOptions,
  type VfioSessionEnd,
} from '../../src/control/vfio-user/index.js';
import { EventFd } from '../../src/linux/eventfd.js';
import type { OwnedFd } from '../../src/linux/fd.js';
import { socketPair, type UnixSocket } from '../../src/linux/unix-socket.js';
import { IRQ, NUM_IRQS, NUM_REGIONS, REGION } from '../../src/linux/vfio-numbers.js';
import { type MemoryRegionSpec, NicError } from '../../src/nic/control.js';
import type { PciFunction, RegionDoorbell, RegionShape } from '../../src/pci/function.js';

/** A file descriptor of its own, for a message to carry. */
export function anFd(name = 'an fd'): OwnedFd {
  return EventFd.create(name).owner;
}

/** A function of 8 KiB of registers (BAR 0), of a page that can't be written (BAR 2), a configuration space, INTx and 32 vectors. Writes down every call. */
export class NoteTakingFunction implements PciFunction {
  readonly calls: string[] = [];
  readonly regions: RegionShape[] = Array.from({ length: NUM_REGIONS }, () => shape(0));
  readonly irqs: number[] = Array.from({ length: NUM_IRQS }, () => 0);
  readonly bytes: Uint8Array[];
  readonly bells: RegionDoorbell[] = [];
  /** Methods that refuse. */
  readonly refusing = new Set<keyof PciFunction>();
  /** Memory that is refused. */
  unwanted: (spec: MemoryRegionSpec) => boolean = () => false;
  memory: readonly Omit<MemoryRegionSpec, 'fd'>[] = [];
  /** What every call waits for. */
  gate: Promise<void> = Promise.resolve();
  busy = 0;
  /** What was asked of it that must not be. */
  readonly violations: string[] = [];
  readonly #eventfds = new Map<string, OwnedFd>();

  constructor() {
    this.regions[REGION.BAR0] = shape(8192);
    this.regions[REGION.BAR2] = { ...shape(4096), writable: false };
    this.regions[REGION.CONFIG] = shape(4096);
    this.irqs[IRQ.INTX] = 1;
    this.irqs[IRQ.MSIX] = 32;
    this.bytes = this.regions.map(({ size }) => new Uint8Array(size));
  }

  async read(region: number, offset: number, into: Uint8Array): Promise<void> {
    await this.#note('read', [region, `0x${offset.toString(16)}`, into.length]);
    this.#inside('readable', region, offset, into.length);
    into.set(this.bytes[region]!.subarray(offset, offset + into.length));
  }
  async write(region: number, offset: number, bytes: Uint8Array): Promise<void> {
    await this.#note('write', [region, `0x${offset.toString(16)}`, Buffer.from(bytes).toString('hex')]);
    this.#inside('writable', region, offset, bytes.length);
    this.bytes[region]!.set(bytes, offset);
  }
  async connect(kind: number, index: number, fd: OwnedFd | null): Promise<void> {
    const key = `${kind}.${index}`;
    try {
      await this.#note('connect', [key, fd ? 'fd' : 'nothing']);
    } catch (error) {
      fd?.close();
      throw error;
    }
    this.#eventfds.get(key)?.close();
    this.#eventfds.delete(key);
    if (fd) this.#eventfds.set(key, EventFd.adopt(fd).owner);
  }
  async mask(kind: number, index: number, masked: boolean): Promise<void> {
    await this.#note('mask', [`${kind}.${index}`, masked]);
  }
  async raise(kind: number, index: number): Promise<void> {
    await this.#note('raise', [`${kind}.${index}`]);
    this.signal(kind, index);
  }
  doorbells(region: number): readonly RegionDoorbell[] {
    return region === REGION.BAR0 ? this.bells : [];
  }
  async setMemory(specs: readonly MemoryRegionSpec[]): Promise<void> {
    const files = [...new Set(specs.map(({ fd }) => fd))];
    try {
      if (files.some(({ closed }) => closed)) this.violations.push('memory without a file');
      await this.#note('setMemory', [specs.length, files.length]);
      if (specs.some(this.unwanted)) throw new NicError('MEMORY_TEST', 'not this one');
      this.memory = specs.map(({ fd: _, ...spec }) => spec);
    } finally {
      for (const file of files) file.close();
    }
  }
  async reset(): Promise<void> {
    await this.#note('reset', []);
  }
  async disconnect(): Promise<void> {
    await this.#note('disconnect', []);
    assert.deepEqual(this.violations, []);
    for (const fd of this.#eventfds.values()) fd.close();
    this.#eventfds.clear();
    this.memory = [];
  }

  /** As the device itself would. False when nothing is connected. */
  signal(kind: number, index: number): boolean {
    const fd = this.#eventfds.get(`${kind}.${index}`);
    if (fd) EventFd.adopt(fd).signal();
    return fd !== undefined;
  }

  #inside(right: 'readable' | 'writable', region: number, offset: number, length: number): void {
    const shape = this.regions[region];
    if (shape?.[right] && length > 0 && offset >= 0 && offset + length <= shape.size) return;
    this.violations.push(`${length} bytes at ${offset} of region ${region}`);
  }

  async #note(method: keyof PciFunction, args: readonly unknown[]): Promise<void> {
    if (this.busy > 0) this.violations.push(`${method} while something else is done`);
    const [kind, index] = String(args[0]).split('.').map(Number);
    const counted = method === 'connect' || method === 'mask' || method === 'raise';
    if (counted && !(index! < this.irqs[kind!]!)) this.violations.push(`${method} of interrupt ${args[0]}`);
    this.busy += 1;
    try {
      await this.gate;
      this.calls.push(`${method}(${args.join(', ')})`);
      if (this.refusing.has(method)) throw new NicError('NIC_TEST', `${method} is told to refuse`);
    } finally {
      this.busy -= 1;
    }
  }
}

function shape(size: number): RegionShape {
  return { size, readable: true, writable: true };
}

/** What came back. */
export interface Answer {
  readonly id: number;
  readonly command: number;
  readonly flags: number;
  readonly errno: number;
  readonly payload: Uint8Array<ArrayBuffer>;
  readonly fds: readonly OwnedFd[];
}

/** What QEMU 11.1 says first; with the version 198 bytes of payload. */
export const QEMU_VERSION = hello(
  '{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, ' +
    '"migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}',
);

/** A VERSION of 0.0 with that text, and a NUL. */
export function hello(text: string): Uint8Array {
  return encodeCommand('VERSION', { major: 0, minor: 0 }, Buffer.from(`${text}\0`));
}

export class Peer {
  readonly refusals: string[] = [];
  readonly socket: UnixSocket;
  readonly ended: Promise<VfioSessionEnd>;
  #id = 0x100;

  constructor(fn: PciFunction, options: VfioServerOptions = {}) {
    const [mine, theirs] = socketPair('vfio-user');
    this.socket = mine;
    const onRefused = (command: string, error: Error): void => {
      this.refusals.push(`${command}: ${(error as Error & { code: string }).code}`);
    };
    this.ended = serveVfioUser(socketChannel(theirs), fn, { onRefused, ...options });
  }

  /** One that has agreed on a version, as QEMU does. */
  static async greeted(fn: PciFunction, options: VfioServerOptions = {}): Promise<Peer> {
    const peer = new Peer(fn, options);
    peer.send(QEMU_VERSION);
    assert.equal((await peer.answer()).flags, FLAGS.REPLY);
    return peer;
  }

  /** Sends and closes the fds, as a client may do at once. */
  send(bytes: Uint8Array, fds: readonly OwnedFd[] = []): void {
    try {
      this.socket.send(
        bytes,
        fds.map(({ fd }) => fd),
      );
    } finally {
      for (const fd of fds) fd.close();
    }
  }

  /** Sends a command and returns its id. */
  tell<N extends CommandName>(
    name: N,
    values: CommandValues<N>,
    options: { tail?: Uint8Array; fds?: readonly OwnedFd[]; noReply?: boolean } = {},
  ): number {
    const id = this.#id++ & 0xffff;
    const { tail, fds, noReply } = options;
    this.send(encodeCommand(name, values, tail, { id, noReply }), fds);
    return id;
  }

  /** A command and its answer. */
  async ask<N extends CommandName>(
    name: N,
    values: CommandValues<N>,
    options: { tail?: Uint8Array; fds?: readonly OwnedFd[] } = {},
  ): Promise<Answer> {
    const id = this.tell(name, values, options);
    const answer = await this.answer();
    assert.equal(answer.id, id);
    return answer;
  }

  /** The errno that a command is answered with, 0 when it worked. */
  async errno<N extends CommandName>(
    name: N,
    values: CommandValues<N>,
    options: { tail?: Uint8Array; fds?: readonly OwnedFd[] } = {},
  ): Promise<number> {
    const { flags, errno, payload, fds } = await this.ask(name, values, options);
    for (const fd of fds) fd.close();
    if (flags === FLAGS.REPLY) return 0;
    assert.equal(flags, FLAGS.REPLY | FLAGS.ERROR);
    assert.equal(payload.length, 0);
    assert.notEqual(errno, 0);
    return errno;
  }

  async answer(): Promise<Answer> {
    const [head, fds] = await this.#receive(HEADER_SIZE);
    const view = new DataView(head.buffer);
    const [payload] = await this.#receive(view.getUint32(4, true) - HEADER_SIZE);
    return {
      id: view.getUint16(0, true),
      command: view.getUint16(2, true),
      flags: view.getUint32(8, true),
      errno: view.getUint32(12, true),
      ...{ payload, fds },
    };
  }

  /** Everything sent so far has been looked at, and nothing else was answered. */
  async settle(): Promise<void> {
    await this.ask('GET_INFO', { argsz: 16, flags: 0, numRegions: 0, numIrqs: 0 });
  }

  async close(): Promise<VfioSessionEnd> {
    this.socket.close();
    return this.ended;
  }

  /** Resolves when there is something to receive, or the end. */
  readable(): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => settle(() => reject(new Error('the server says nothing'))), 20_000);
      const settle = (done: () => void): void => {
        clearTimeout(timer);
        this.socket.onReadable(null);
        done();
      };
      this.socket.onReadable(() => settle(resolve));
    });
  }

  async #receive(length: number): Promise<[Uint8Array<ArrayBuffer>, OwnedFd[]]> {
    const bytes = new Uint8Array(length);
    const fds: OwnedFd[] = [];
    for (let filled = 0; filled < length; ) {
      const got = this.socket.receive(bytes.subarray(filled));
      if (got === null) {
        await this.readable();
        continue;
      }
      fds.push(...got.fds);
      assert.notEqual(got.bytes, 0, 'the server has closed');
      filled += got.bytes;
    }
    return [bytes, fds];
  }
}
