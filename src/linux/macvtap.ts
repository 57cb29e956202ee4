/**
 * macvtap interfaces: an address of its own on another interface (physical, or a veth), whose other side is a character device.
 *
 *     /dev/tapN, N the interface's index     each open is one more queue; frames with a virtio-net header, as those of a TAP (tun.ts)
 *
 * The interface is made by the administrator and outlives its descriptors (`ip link add link eth0 name IFNAME type macvtap`). When it is deleted, before
 * them, nothing is ever read any more, and what is written goes nowhere, as if it had been sent: only `Tap.exists` tells.
 */
import { existsSync } from 'node:fs';
import { check } from './errors.js';
import { OwnedFd } from './fd.js';
import { ioctl, open } from './libc.js';
import { linkInfo } from './link.js';
import { Tap } from './tun.js';

const O_RDWR_NONBLOCK_CLOEXEC = 0o2 | 0o4000 | 0o2000000;
const TUNSETIFF = 0x400454ca;
const IFF_TAP = 0x0002;
const IFF_MULTI_QUEUE = 0x0100;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
const IFREQ_SIZE = 40;
const IFREQ_FLAGS = 16;

/** Its device. Throws LinuxError ENODEV: no such interface. */
function deviceOf(name: string): string {
  return `/dev/tap${linkInfo(name).index}`;
}

/** Whether the interface is a macvtap, of this thread's namespace. Throws LinuxError ENODEV. */
export function isMacvtap(name: string): boolean {
  return existsSync(deviceOf(name));
}

/** Opens a queue, nonblocking, with a header of 12 bytes. Throws LinuxError: ENODEV, ENOENT (it is no macvtap), EACCES, EBUSY (256 queues). */
export function openMacvtap(name: string): Tap {
  const path = deviceOf(name);
  const owner = new OwnedFd(check(open(path, O_RDWR_NONBLOCK_CLOEXEC), 'open', path), `macvtap ${name}`);
  try {
    const request = new DataView(new ArrayBuffer(IFREQ_SIZE));
    request.setUint16(IFREQ_FLAGS, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE, true);
    check(ioctl(owner.fd, TUNSETIFF, request), 'ioctl TUNSETIFF', name);
    const queue = new Tap(owner, name);
    queue.setVnetHeaderSize(12);
    queue.setOffload(0);
    return queue;
  } catch (error) {
    owner.close();
    throw error;
  }
}
