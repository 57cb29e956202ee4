/** What route netlink tells of a TAP that no ioctl does. Numbers: <linux/if_link.h>. */
import type { OwnedFd } from './fd.js';
import { decodeAttributes, netlinkRequest } from './netlink.js';

const RTM_GETLINK = 18;
const IFINFOMSG_SIZE = 16;
const IFLA_IFNAME = 3;
const IFLA_LINKINFO = 18;
const IFLA_INFO_DATA = 2;
const IFLA_TUN_NUM_QUEUES = 8;
const IFLA_TUN_NUM_DISABLED_QUEUES = 9;

/**
 * How many descriptors are open, in all processes, for a TAP of several queues, those out of service among them; null: the interface is another,
 * or the kernel does not tell. Throws LinuxError ENODEV.
 */
export function tapDescriptors(name: string, netns?: OwnedFd): number | null {
  const what = { call: 'look up interface', object: name };
  const body = netlinkRequest(netns, what, RTM_GETLINK, 0, new Uint8Array(IFINFOMSG_SIZE), [
    [IFLA_IFNAME, name],
  ]);
  const info = decodeAttributes(body, IFINFOMSG_SIZE).get(IFLA_LINKINFO);
  const data = info && decodeAttributes(info, 0).get(IFLA_INFO_DATA);
  const counts = data && decodeAttributes(data, 0);
  const [used, unused] = [IFLA_TUN_NUM_QUEUES, IFLA_TUN_NUM_DISABLED_QUEUES].map(type => counts?.get(type));
  return used && unused ? word(used) + word(unused) : null;
}

function word(bytes: Uint8Array): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
}
