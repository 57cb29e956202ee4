/** The flows of the demo between its two machines: how each is started, and what of its result goes where in the report. */
import { gbits } from './display.js';
import type { KernelShare, Network } from './network.js';
import { type DemoReport, type Direction, rounded } from './report.js';
import type { TrafficEnds } from './traffic/ends.js';
import type { TcpReceived, TcpSent } from './traffic/tcp.js';
import type { UdpReceived, UdpSent } from './traffic/udp.js';

const TCP_PORTS = { guest_to_host: 5001, host_to_guest: 5002 };
const UDP_PORT = 5003;
/** Of TCP, in the largest frame that is cut later: 64 KiB of them, in packets of 1500 bytes. */
const MOST_SEGMENTS = 46;

export const TITLES = {
  guest_to_host: 'TCP guest to host',
  host_to_guest: 'TCP host to guest',
  udp: 'UDP guest to host',
} as const;

export type TcpResult = readonly [TcpReceived, TcpSent];
export type UdpResult = readonly [UdpReceived, UdpSent];

export function tcpFlow(
  ends: TrafficEnds,
  { guest, host }: Network,
  direction: Direction,
  forMs: number,
  pace?: number,
): Promise<TcpResult> {
  const [from, to] = direction === 'guest_to_host' ? [guest, host] : [host, guest];
  const at = { ip: to.ip, port: TCP_PORTS[direction] };
  return ends.flow(to, { op: 'tcpReceive', at }, from, {
    op: 'tcpSend',
    to: at,
    forMs,
    ...(pace === undefined ? {} : { pace }),
  });
}

/** From the guest to the host. `pace`: datagrams a second; default: as many as get through. */
export function udpFlow(
  ends: TrafficEnds,
  { guest, host }: Network,
  forMs: number,
  pace?: number,
): Promise<UdpResult> {
  const at = { ip: host.ip, port: UDP_PORT };
  const send = { op: 'udpSend', to: at, forMs, ...(pace === undefined ? {} : { pace }) } as const;
  return ends.flow(host, { op: 'udpReceive', at }, guest, send);
}

/** For the table. */
export function tcpRate([{ bytes, seconds }]: TcpResult): string {
  return gbits(bytes / seconds);
}

/**
 * `kernel`: meanwhile, in that direction. A segment that was sent again had been lost, unless it then came twice; and the NIC has lost it, unless the
 * kernel can have done so.
 */
export function reportTcp(
  report: DemoReport,
  direction: Direction,
  result: TcpResult,
  kernel: KernelShare,
): void {
  const [{ bytes, seconds, corruptAt }, sent] = result;
  // Both ends count: the receiver frames, which may hold several segments; the sender what it has been told so far.
  const spurious = Math.min(sent.retransmissions, Math.max(sent.cameTwice, kernel.cameTwice));
  const lost = sent.retransmissions - spurious;
  report.tcp_gbps[direction] = rounded((bytes * 8) / seconds / 1e9, 3);
  report.tcp_retransmissions[direction] = sent.retransmissions;
  report.tcp_spurious[direction] = spurious;
  report.tcp_dropped_by_kernel[direction] = kernel.dropped;
  const title = TITLES[direction];
  const { failures } = report;
  if (corruptAt !== null) failures.push(`${title}: corrupt after ${corruptAt} bytes`);
  if (bytes !== sent.bytes) failures.push(`${title}: ${bytes} of ${sent.bytes} bytes arrived`);
  if (lost > kernel.dropped * MOST_SEGMENTS)
    failures.push(`${title}: ${lost} segments lost (the kernel itself dropped ${kernel.dropped} frames)`);
}

/** For the table. */
export function udpLosses([{ received, reordered }, { sent }]: UdpResult): string {
  return `${sent - received} lost, ${reordered} reordered`;
}

/** `droppedAtInterfaces`: by the kernel, meanwhile. */
export function reportUdp(report: DemoReport, result: UdpResult, droppedAtInterfaces: number): void {
  const [{ received, reordered, foreign, dropped }, { sent, seconds }] = result;
  const lost = sent - received;
  const dropped_by_kernel = droppedAtInterfaces + dropped;
  report.udp = { sent, received, lost, dropped_by_kernel, reordered, pps: Math.round(received / seconds) };
  const { failures } = report;
  const where = `the kernel itself dropped ${droppedAtInterfaces} at its interfaces, ${dropped} at the socket`;
  if (lost > 0) failures.push(`UDP: ${lost} of ${sent} datagrams lost (${where})`);
  if (reordered > 0) failures.push(`UDP: ${reordered} of ${sent} datagrams reordered`);
  if (foreign > 0) failures.push(`UDP: ${foreign} datagrams corrupt or doubled`);
  if (received === 0) failures.push('UDP: nothing arrived');
}
