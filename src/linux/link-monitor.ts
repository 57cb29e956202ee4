/**
 * Learning of changes to interfaces as they happen: a netlink socket that is a member of the group RTMGRP_LINK.
 *
 * What the messages say is not read: they may be lost when many come at once. Each wake-up means "look again", with `linkInfo`.
 */
import { check, ENOBUFS, isErrno } from './errors.js';
import { OwnedFd } from './fd.js';
import * as libc from './libc.js';
import { type LinkInfo, linkInfo } from './link.js';
import { inNetns } from './netns.js';
import { watchReadable } from './watch.js';

const AF_NETLINK = 16;
const SOCK_RAW_NONBLOCK_CLOEXEC = 3 | 0o4000 | 0o2000000;
const NETLINK_ROUTE = 0;
const RTMGRP_LINK = 1;

export interface LinkMonitor {
  close(): void;
}

/**
 * Calls back with the interface as it is now, at once and after every change to it; null once it is gone. Keep `netns`
 * open while the monitor is.
 */
export function monitorLink(
  name: string,
  netns: OwnedFd | undefined,
  callback: (link: LinkInfo | null) => void,
): LinkMonitor {
  const what = `link monitor ${name}`;
  const socket = inNetns(
    netns,
    () => new OwnedFd(libc.socket(AF_NETLINK, SOCK_RAW_NONBLOCK_CLOEXEC, NETLINK_ROUTE), what, 'socket'),
  );
  try {
    const address = new Uint8Array(12); // sockaddr_nl: u16 family, u16 pad, u32 port, u32 groups
    address[0] = AF_NETLINK;
    address[8] = RTMGRP_LINK;
    check(libc.bind(socket.fd, address), 'bind', what);
  } catch (error) {
    socket.close();
    throw error;
  }
  const buffer = new Uint8Array(65536);
  const look = (): void => {
    try {
      callback(linkInfo(name, netns));
    } catch (error) {
      if (!isErrno(error, 'ENODEV')) throw error;
      callback(null);
    }
  };
  const watch = watchReadable(socket.fd, () => {
    let received: number;
    // ENOBUFS says that messages were lost: as good a reason to look as any.
    do received = libc.recv(socket.fd, buffer, buffer.length, 0);
    while (received >= 0 || received === -ENOBUFS);
    look();
  });
  look();
  return {
    close() {
      watch.close();
      socket.close();
    },
  };
}
