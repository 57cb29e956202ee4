/**
 * The kernel's vhost-net: virtqueues that a kernel thread works on, with a TAP or macvtap behind them.
 *
 * ```
 *   open ─► setOwner ─► setFeatures ─► setMemory ─► per ring: setRing ─► setBackend(tap) ── packets ── setBackend(null) ─► ringBase
 * ```
 * One device is one queue pair: ring 0 receives, ring 1 transmits. Ring addresses are this process's own; descriptors hold guest physical ones, which
 * the memory table translates. While a ring has a backend, its size and position can't be set.
 *
 * Numbers and layouts: <linux/vhost.h>, <linux/vhost_types.h>.
 */
import { check } from './errors.js';
import { OwnedFd } from './fd.js';
import { ioctl, open } from './libc.js';

const O_RDWR_CLOEXEC = 0o2 | 0o2000000;
const TYPE = 0xaf;
const WRITE = 1;
const READ = 2;

/** An ioctl's number (<asm-generic/ioctl.h>): direction, bytes of the argument, type, number. */
function request(direction: number, number: number, size: number): number {
  return ((direction << 30) | (size << 16) | (TYPE << 8) | number) >>> 0;
}

const STATE_SIZE = 8;
const FILE_SIZE = 8;
const ADDRESSES_SIZE = 40;
const MEMORY_HEAD = 8;
const REGION_SIZE = 32;

export const VHOST = {
  GET_FEATURES: request(READ, 0x00, 8),
  SET_FEATURES: request(WRITE, 0x00, 8),
  SET_OWNER: request(0, 0x01, 0),
  SET_MEM_TABLE: request(WRITE, 0x03, MEMORY_HEAD),
  SET_VRING_NUM: request(WRITE, 0x10, STATE_SIZE),
  SET_VRING_ADDR: request(WRITE, 0x11, ADDRESSES_SIZE),
  SET_VRING_BASE: request(WRITE, 0x12, STATE_SIZE),
  GET_VRING_BASE: request(READ | WRITE, 0x12, STATE_SIZE),
  SET_VRING_KICK: request(WRITE, 0x20, FILE_SIZE),
  SET_VRING_CALL: request(WRITE, 0x21, FILE_SIZE),
  NET_SET_BACKEND: request(WRITE, 0x30, FILE_SIZE),
} as const;

/** Part of the guest's memory, and where this process has it. Bytes. */
export interface VhostRegion {
  readonly guestPhysicalAddress: bigint;
  readonly size: bigint;
  readonly userspaceAddress: bigint;
}

/** Where a ring is, in addresses of this process. */
export interface VhostRing {
  readonly num: number;
  readonly base: number;
  readonly descriptor: bigint;
  readonly available: bigint;
  readonly used: bigint;
  /** Eventfds. */
  readonly kick: number;
  readonly call: number;
}

/** struct vhost_memory: u32 regions, u32 padding, then {u64 gpa, u64 size, u64 address, u64 padding} each. */
export function encodeMemory(regions: readonly VhostRegion[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(MEMORY_HEAD + regions.length * REGION_SIZE));
  view.setUint32(0, regions.length, true);
  regions.forEach(({ guestPhysicalAddress, size, userspaceAddress }, i) => {
    const at = MEMORY_HEAD + i * REGION_SIZE;
    view.setBigUint64(at, guestPhysicalAddress, true);
    view.setBigUint64(at + 8, size, true);
    view.setBigUint64(at + 16, userspaceAddress, true);
  });
  return new Uint8Array(view.buffer);
}

/** struct vhost_vring_addr: u32 index, u32 flags, u64 descriptors, u64 used, u64 available, u64 address in the log. */
export function encodeAddresses(index: number, ring: VhostRing): Uint8Array {
  const view = new DataView(new ArrayBuffer(ADDRESSES_SIZE));
  view.setUint32(0, index, true);
  view.setBigUint64(8, ring.descriptor, true);
  view.setBigUint64(16, ring.used, true);
  view.setBigUint64(24, ring.available, true);
  return new Uint8Array(view.buffer);
}

/** struct vhost_vring_state and vhost_vring_file: u32 index, then a number or a descriptor (-1: none). */
function pair(index: number, value: number): Int32Array {
  return new Int32Array([index, value]);
}

export class VhostNet {
  readonly owner: OwnedFd;

  private constructor(owner: OwnedFd) {
    this.owner = owner;
  }

  /** Throws LinuxError: ENOENT (no module vhost_net), EACCES. */
  static open(path = '/dev/vhost-net'): VhostNet {
    return new VhostNet(new OwnedFd(check(open(path, O_RDWR_CLOEXEC), 'open', path), 'vhost-net'));
  }

  /** The feature bits that it offers. */
  get features(): bigint {
    const bits = new BigUint64Array(1);
    this.#call('GET_FEATURES', bits);
    return bits[0]!;
  }

  /** Ties it to this process, once. */
  setOwner(): void {
    this.#call('SET_OWNER', null);
  }

  setFeatures(features: bigint): void {
    this.#call('SET_FEATURES', new BigUint64Array([features]));
  }

  setMemory(regions: readonly VhostRegion[]): void {
    this.#call('SET_MEM_TABLE', encodeMemory(regions));
  }

  /** Of a ring without a backend. Throws LinuxError EBUSY, EINVAL, EFAULT. */
  setRing(index: number, ring: VhostRing): void {
    this.#call('SET_VRING_NUM', pair(index, ring.num));
    this.#call('SET_VRING_BASE', pair(index, ring.base));
    this.#call('SET_VRING_ADDR', encodeAddresses(index, ring));
    this.#call('SET_VRING_KICK', pair(index, ring.kick));
    this.#call('SET_VRING_CALL', pair(index, ring.call));
  }

  /** The ring runs from now on, with the queue of a TAP behind it; null: it stops, and when this returns the kernel touches it no more. */
  setBackend(index: number, tap: number | null): void {
    this.#call('NET_SET_BACKEND', pair(index, tap ?? -1));
  }

  /** Where a ring stands. */
  ringBase(index: number): number {
    const state = pair(index, 0);
    this.#call('GET_VRING_BASE', state);
    return state[1]!;
  }

  close(): void {
    this.owner.close();
  }

  #call(name: keyof typeof VHOST, argument: NodeJS.ArrayBufferView | null): void {
    check(ioctl(this.owner.fd, VHOST[name], argument), `ioctl VHOST_${name}`, this.owner.name);
  }
}
