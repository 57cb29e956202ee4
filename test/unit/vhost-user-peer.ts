/**
 * A vhost-user front end made of a bare socket, which can say anything, and a NIC that only takes notes.
 *
 * ```
 *   Peer ── bytes, fds ──► socket pair ──► serveVhostUser ──► VhostControl
 * ```
 */
import assert from 'node:assert/strict';
import { socketChannel } from '../../src/control/bpfhv-proxy/channel.js';
import {
  encodeRequest,
  HEADER_SIZE,
  REQUESTS,
  type RequestName,
  type RequestValues,
  serveVhostUser,
  type VhostBackendOptions,
  type VhostSessionEnd,
} from '../../src/control/vhost-user/index.js';
import { EventFd } from '../../src/linux/eventfd.js';
import type { OwnedFd } from '../../src/linux/fd.js';
import { eventually } from '../../src/linux/testing.js';
import { socketPair, type UnixSocket } from '../../src/linux/unix-socket.js';
import { type MemoryRegionSpec, NicError } from '../../src/nic/control.js';
import type {
  AskTranslation,
  Kick,
  RegionName,
  Translation,
  VhostControl,
  VringAddresses,
} from '../../src/nic/vhost-control.js';
import type { Attached, Step } from './vhost-user-scripts.js';

/** A file descriptor of its own, for a message to carry. */
export function anFd(name = 'an fd'): OwnedFd {
  return EventFd.create(name).owner;
}

/** What came back: flags and payload. */
export interface Answer {
  readonly request: number;
  readonly flags: number;
  readonly payload: Uint8Array;
}

export class Peer {
  readonly refusals: string[] = [];
  readonly socket: UnixSocket;
  readonly ended: Promise<VhostSessionEnd>;

  constructor(nic: VhostControl, options: VhostBackendOptions = {}) {
    const [mine, theirs] = socketPair('vhost-user');
    this.socket = mine;
    const onRefused = (request: string, error: Error): void => {
      this.refusals.push(`${request}: ${(error as Error & { code: string }).code}`);
    };
    this.ended = serveVhostUser(socketChannel(theirs), nic, { onRefused, ...options });
  }

  /** Sends and closes the fds, as a front end may do at once. */
  send(bytes: Uint8Array, fds: readonly OwnedFd[] = []): void {
    this.socket.send(
      bytes,
      fds.map(({ fd }) => fd),
    );
    for (const fd of fds) fd.close();
  }

  /** A request to which nothing is answered. */
  tell<N extends RequestName>(name: N, values: RequestValues<N>, fds: readonly OwnedFd[] = []): void {
    this.send(encodeRequest(name, values), fds);
  }

  /** A request that is answered: the answer. */
  async ask<N extends RequestName>(
    name: N,
    values: RequestValues<N>,
    fds: readonly OwnedFd[] = [],
  ): Promise<Answer> {
    this.send(encodeRequest(name, values), fds);
    return this.answer();
  }

  /** As `ask` for one that answers a u64. */
  async number<N extends RequestName>(name: N, values: RequestValues<N>, fds: readonly OwnedFd[] = []) {
    const answer = await this.ask(name, values, fds);
    assert.equal(answer.request, REQUESTS[name].number);
    assert.equal(answer.flags, 5);
    assert.equal(answer.payload.length, 8);
    return new DataView(answer.payload.buffer).getBigUint64(0, true);
  }

  /** A request with need_reply: whether it worked. */
  async confirm<N extends RequestName>(name: N, values: RequestValues<N>, fds: readonly OwnedFd[] = []) {
    this.send(encodeRequest(name, values, true), fds);
    const { request, flags, payload } = await this.answer();
    assert.equal(request, REQUESTS[name].number);
    assert.equal(flags, 5);
    assert.equal(payload.length, 8);
    return new DataView(payload.buffer).getBigUint64(0, true) === 0n;
  }

  async answer(): Promise<Answer> {
    const header = new DataView((await this.#receive(HEADER_SIZE)).buffer);
    const payload = await this.#receive(header.getUint32(8, true));
    return { request: header.getUint32(0, true), flags: header.getUint32(4, true), payload };
  }

  /** Everything sent so far has been looked at. */
  async settle(): Promise<void> {
    await this.ask('GET_FEATURES', {});
  }

  async close(): Promise<VhostSessionEnd> {
    this.socket.close();
    return this.ended;
  }

  async #receive(length: number): Promise<Uint8Array<ArrayBuffer>> {
    const bytes = new Uint8Array(length);
    for (let filled = 0; filled < length; ) {
      const got = await eventually(() => this.socket.receive(bytes.subarray(filled)));
      assert.equal(got.fds.length, 0, 'nobody asked for an fd');
      assert.notEqual(got.bytes, 0, 'the backend has closed');
      filled += got.bytes;
    }
    return bytes;
  }
}

/** Holds what it is given, as a NIC does, and writes down every call. */
export class NoteTakingVhost implements VhostControl {
  readonly calls: string[] = [];
  readonly queuePairs = 2;
  readonly memorySlots = 509;
  offered = 0x1_0000_0000n;
  /** Methods that refuse. */
  readonly refusing = new Set<keyof VhostControl>();
  ask: AskTranslation | null = null;
  readonly #held = new Map<string, readonly OwnedFd[]>();

  features(): bigint {
    return this.offered;
  }
  async setFeatures(accepted: bigint, enabled: boolean): Promise<void> {
    this.#note('setFeatures', `0x${accepted.toString(16)}${enabled ? ', enabled' : ''}`);
  }
  async setMemoryTable(regions: readonly MemoryRegionSpec[]): Promise<void> {
    const fds = regions.map(({ fd }) => fd);
    this.#note('setMemoryTable', regions.map(where).join(', '), 'memory', fds);
  }
  async addRegion(region: MemoryRegionSpec): Promise<void> {
    this.#note('addRegion', where(region), `region ${where(region)}`, [region.fd]);
  }
  async removeRegion(region: RegionName): Promise<void> {
    this.#note('removeRegion', where(region));
  }
  async setVringSize(index: number, num: number): Promise<void> {
    this.#note('setVringSize', `${index}, ${num}`);
  }
  async setVringAddresses(index: number, a: VringAddresses): Promise<void> {
    this.#note('setVringAddresses', [index, a.descriptor, a.driver, a.device, a.log].join(', '));
  }
  async setVringBase(index: number, base: number): Promise<void> {
    this.#note('setVringBase', `${index}, ${base}`);
  }
  async stopVring(index: number): Promise<number> {
    this.#note('stopVring', `${index}`);
    return 40 + index;
  }
  async setVringKick(index: number, kick: Kick): Promise<void> {
    this.#fd('setVringKick', index, kick);
  }
  async setVringCall(index: number, fd: OwnedFd | null): Promise<void> {
    this.#fd('setVringCall', index, fd);
  }
  async setVringError(index: number, fd: OwnedFd | null): Promise<void> {
    this.#fd('setVringError', index, fd);
  }
  async enableVring(index: number, enabled: boolean): Promise<void> {
    this.#note('enableVring', `${index}, ${enabled}`);
  }
  async setDirtyLog(size: bigint, offset: bigint, fd: OwnedFd): Promise<void> {
    this.#note('setDirtyLog', `${size}, ${offset}`, 'log', [fd]);
  }
  async announce(mac: Uint8Array): Promise<void> {
    this.#note('announce', Buffer.from(mac).toString('hex'));
  }
  async setMtu(mtu: bigint): Promise<void> {
    this.#note('setMtu', `${mtu}`);
  }
  async setTranslator(ask: AskTranslation | null): Promise<void> {
    this.ask = ask;
    this.#note('setTranslator', ask ? 'one' : 'none');
  }
  async addTranslation(t: Translation): Promise<void> {
    const rights = `${t.readable ? 'r' : ''}${t.writable ? 'w' : ''}`;
    this.#note('addTranslation', `${t.iova}+${t.size} = ${t.userspaceAddress} ${rights}`);
  }
  async removeTranslation(iova: bigint, size: bigint): Promise<void> {
    this.#note('removeTranslation', `${iova}+${size}`);
  }
  async reset(): Promise<void> {
    this.#note('reset', '');
  }
  async disconnect(): Promise<void> {
    for (const fds of this.#held.values()) for (const fd of fds) fd.close();
    this.#held.clear();
    this.#note('disconnect', '');
  }

  #fd(method: keyof VhostControl, index: number, fd: Kick | null): void {
    const shown = fd === null ? 'none' : fd === 'polled' ? 'polled' : 'fd';
    this.#note(
      method,
      `${index}, ${shown}`,
      `${method} ${index}`,
      fd === null || fd === 'polled' ? [] : [fd],
    );
  }

  #note(method: keyof VhostControl, args: string, place?: string, fds: readonly OwnedFd[] = []): void {
    this.calls.push(`${method}(${args})`);
    if (this.refusing.has(method)) {
      for (const fd of fds) fd.close();
      throw new NicError('NIC_TEST', `${method} is told to refuse`);
    }
    if (place === undefined) return;
    for (const fd of this.#held.get(place) ?? []) fd.close();
    this.#held.set(place, fds);
  }
}

function where(region: RegionName): string {
  return `${region.guestPhysicalAddress}+${region.size} at ${region.hypervisorVirtualAddress}`;
}

/** The descriptors that a step of a script carries. */
export type Supply = (what: Attached, step: Step) => OwnedFd;

/** Says all of it; what is acknowledged must be well. Resolves when the last of it has been looked at. */
export async function say(peer: Peer, steps: readonly Step[], supply: Supply = () => anFd()): Promise<void> {
  for (const step of steps) {
    const { name, values, fds = [], how } = step;
    const kept = fds.map(what => supply(what, step));
    if (how === 'ack')
      assert.ok(await peer.confirm(name, values, kept), `${name} is refused: ${peer.refusals}`);
    else if (how === 'get') await peer.ask(name, values, kept);
    else peer.tell(name, values, kept);
  }
  await peer.settle();
}
