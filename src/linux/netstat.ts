/**
 * What the kernel counts of TCP in a network namespace (/proc/net/netstat), in pairs of lines:
 *
 *     TcpExt: SyncookiesSent SyncookiesRecv …
 *     TcpExt: 0 0 …
 *
 * Names and meanings: <linux/snmp.h>.
 */
import { readFileSync } from 'node:fs';
import type { OwnedFd } from './fd.js';
import { inNetns } from './netns.js';

/** The counters by name, since the namespace was made; which ones there are depends on the kernel. */
export function tcpCounters(netns?: OwnedFd): ReadonlyMap<string, number> {
  const text = inNetns(netns, () => readFileSync('/proc/thread-self/net/netstat', 'latin1'));
  const [names = '', values = ''] = text.split('\n').filter(line => line.startsWith('TcpExt: '));
  const numbers = values.split(' ');
  return new Map(names.split(' ').map((name, i) => [name, Number(numbers[i])]));
}
