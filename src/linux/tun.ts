/**
 * TAP devices: an Ethernet interface of the kernel whose other side is a descriptor of ours.
 *
 *     kernel sends a frame on the interface  ──►  readv(fd)   = virtio-net header │ Ethernet frame
 *     frame arrives at the kernel            ◄──  writev(fd)  = virtio-net header │ Ethernet frame
 *
 * The header (struct virtio_net_hdr, 10 bytes, or 12 with the buffer count) carries checksum and segmentation
 * offloads. `setOffload` says which offloads *we* accept: frames that need them may then be read. Writing frames
 * with offloads needs no consent. The device is gone when the descriptor is closed.
 *
 * Numbers: <linux/if_tun.h>, <linux/sockios.h>.
 */
import { check, EBADFD, EINVAL, ENOLINK, LinuxError } from './errors.js';
import { OwnedFd } from './fd.js';
import { ioctl, ioctlValue, open } from './libc.js';
import { inNetns } from './netns.js';

const O_RDWR_NONBLOCK_CLOEXEC = 0o2 | 0o4000 | 0o2000000;
const IFF_TAP = 0x0002;
const IFF_NAPI = 0x0010;
const IFF_MULTI_QUEUE = 0x0100;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;

const TUNSETIFF = 0x400454ca;
const TUNSETOFFLOAD = 0x400454d0;
const TUNSETSNDBUF = 0x400454d4;
const TUNSETVNETHDRSZ = 0x400454d8;
const TUNSETQUEUE = 0x400454d9;
const TUNSETCARRIER = 0x400454e2;
const SIOCSIFHWADDR = 0x8924;
const SIOCGIFHWADDR = 0x8927;
const IFF_ATTACH_QUEUE = 0x0200;
const IFF_DETACH_QUEUE = 0x0400;
const ARPHRD_ETHER = 1;

/** Offload bits of `setOffload`. All others need CSUM; ECN goes with TSO4 or TSO6; kernels before 6.2 refuse USO, and know both or neither. */
export const TUN_F_CSUM = 0x01;
export const TUN_F_TSO4 = 0x02;
export const TUN_F_TSO6 = 0x04;
export const TUN_F_TSO_ECN = 0x08;
export const TUN_F_UFO = 0x10;
export const TUN_F_USO4 = 0x20;
export const TUN_F_USO6 = 0x40;

/** What kernels know, from new ones to old ones. One that finds a bit that it does not know takes none of the others. */
const KNOWN_SETS = [0x7f, 0x1f, 0x0f, 0];

const IFREQ_SIZE = 40;
const IFREQ_UNION = 16;
const IFNAMSIZ = 16;

export interface TapOptions {
  /** Interface name, at most 15 bytes; `tap%d` picks a free number. */
  name: string;
  /** The namespace of the interface; default: the calling thread's. */
  netns?: OwnedFd;
  /** TUN_F_* bits; default none. */
  offloads?: number;
  /** Open one of several queues of the interface: call it once for each. */
  multiQueue?: boolean;
  /** Frames begin with a virtio-net header; default true. */
  vnetHeader?: boolean;
  /** Size of that header; default 12. */
  vnetHeaderSize?: 10 | 12;
  /** Let what we write pass through the kernel's NAPI (batching, GRO). */
  napi?: boolean;
}

/** One queue of a TAP device. */
export class Tap {
  readonly owner: OwnedFd;
  /** The interface's name, with `%d` resolved. */
  readonly name: string;

  constructor(owner: OwnedFd, name: string) {
    this.owner = owner;
    this.name = name;
  }

  get fd(): number {
    return this.owner.fd;
  }

  /** Which offloads may be asked of us (TUN_F_* bits). Throws LinuxError EINVAL for a set the kernel does not know. */
  setOffload(bits: number): void {
    check(ioctlValue(this.fd, TUNSETOFFLOAD, bits), 'ioctl TUNSETOFFLOAD', this.name);
  }

  /** TUN_F_* bits that this kernel can be asked for. Leaves the interface with none. */
  probeOffloads(): number {
    for (const set of KNOWN_SETS) {
      try {
        this.setOffload(set);
      } catch (error) {
        if (!(error instanceof LinuxError) || error.errno !== EINVAL) throw error;
        continue;
      }
      this.setOffload(0);
      return set;
    }
    return 0;
  }

  /** Plugs the cable in or out. */
  setCarrier(on: boolean): void {
    const value = new Int32Array([on ? 1 : 0]);
    check(ioctl(this.fd, TUNSETCARRIER, value), 'ioctl TUNSETCARRIER', this.name);
  }

  setVnetHeaderSize(size: 10 | 12): void {
    check(ioctl(this.fd, TUNSETVNETHDRSZ, new Int32Array([size])), 'ioctl TUNSETVNETHDRSZ', this.name);
  }

  /** Bytes of written frames that may be on their way in the kernel before a write says EAGAIN. */
  setSendBuffer(bytes: number): void {
    check(ioctl(this.fd, TUNSETSNDBUF, new Int32Array([bytes])), 'ioctl TUNSETSNDBUF', this.name);
  }

  /** Takes this queue of a multi-queue device out of service, or back in. */
  setQueueAttached(attached: boolean): void {
    const request = interfaceRequest('');
    request.setInt16(IFREQ_UNION, attached ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE, true);
    check(ioctl(this.fd, TUNSETQUEUE, request), 'ioctl TUNSETQUEUE', this.name);
  }

  /** False once the interface was deleted, which a macvtap says in its own way; renamed or moved to another namespace, it still exists. */
  get exists(): boolean {
    const result = ioctl(this.fd, SIOCGIFHWADDR, interfaceRequest(this.name));
    return result !== -EBADFD && result !== -ENOLINK;
  }

  /** The interface's own address, 6 bytes: the kernel's end of the cable. */
  get mac(): Uint8Array {
    const request = interfaceRequest(this.name);
    check(ioctl(this.fd, SIOCGIFHWADDR, request), 'ioctl SIOCGIFHWADDR', this.name);
    return new Uint8Array(request.buffer.slice(IFREQ_UNION + 2, IFREQ_UNION + 8));
  }

  set mac(address: Uint8Array) {
    const request = interfaceRequest(this.name);
    request.setUint16(IFREQ_UNION, ARPHRD_ETHER, true);
    new Uint8Array(request.buffer).set(address.subarray(0, 6), IFREQ_UNION + 2);
    check(ioctl(this.fd, SIOCSIFHWADDR, request), 'ioctl SIOCSIFHWADDR', this.name);
  }

  /** Removes the device, unless another queue of it is open. */
  close(): void {
    this.owner.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * Creates a TAP device, or opens a queue of an existing one. Nonblocking. Throws LinuxError: EPERM (needs
 * CAP_NET_ADMIN), EBUSY (the name is in use), ENOENT or ENODEV (no TUN driver), EINVAL (bad name, or other flags than
 * the existing device's).
 */
export function openTap(options: TapOptions): Tap {
  const { name, netns, offloads = 0, multiQueue = false, vnetHeader = true, vnetHeaderSize = 12 } = options;
  const request = interfaceRequest(name);
  const owner = inNetns(netns, () => {
    const path = '/dev/net/tun';
    return new OwnedFd(check(open(path, O_RDWR_NONBLOCK_CLOEXEC), 'open', path), `tap ${name}`);
  });
  try {
    const flags =
      IFF_TAP |
      IFF_NO_PI |
      (vnetHeader ? IFF_VNET_HDR : 0) |
      (multiQueue ? IFF_MULTI_QUEUE : 0) |
      (options.napi ? IFF_NAPI : 0);
    request.setUint16(IFREQ_UNION, flags, true);
    check(ioctl(owner.fd, TUNSETIFF, request), 'ioctl TUNSETIFF', name);
    const tap = new Tap(owner, interfaceName(request));
    if (vnetHeader) tap.setVnetHeaderSize(vnetHeaderSize);
    tap.setOffload(offloads);
    return tap;
  } catch (error) {
    owner.close();
    throw error;
  }
}

/** A struct ifreq with its name filled in. Throws RangeError for a name that an interface cannot have. */
function interfaceRequest(name: string): DataView {
  const encoded = new TextEncoder().encode(name);
  if (encoded.length >= IFNAMSIZ || encoded.includes(0) || encoded.includes(0x2f)) {
    throw new RangeError(`${JSON.stringify(name)} is no interface name: at most 15 bytes, no slash`);
  }
  const request = new Uint8Array(IFREQ_SIZE);
  request.set(encoded);
  return new DataView(request.buffer);
}

function interfaceName(request: DataView): string {
  const name = new Uint8Array(request.buffer, 0, IFNAMSIZ);
  return new TextDecoder().decode(name.subarray(0, name.indexOf(0)));
}
