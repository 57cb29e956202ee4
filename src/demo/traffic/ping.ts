/**
 * Echo requests, one at a time, answered by the kernel at the other end.
 *
 * What is sent (RFC 792):  u8 type 8 │ u8 0 │ u16 checksum │ u16 identifier │ u16 sequence │ 48 bytes
 * What comes back begins with an IPv4 header.
 */

import { monotonicNs } from '../../linux/clock.js';
import { EAGAIN } from '../../linux/errors.js';
import { openPing } from '../../linux/socket.js';
import { type Percentiles, percentile } from '../histogram.js';
import { RECEIVED, SENT, type Shared } from './shared.js';

const ECHO_REQUEST = 8;
const ECHO_REPLY = 0;
const PAYLOAD = 48;
const HEADER = 8;
const ANSWER_LIMIT_MS = 2000;
/** Long enough for a poll-mode link to fall asleep: what is measured includes waking up. */
const GAP_MS = 1;

export interface PingWork {
  readonly op: 'ping';
  readonly to: string;
  readonly forMs: number;
}

export interface PingResult {
  readonly sent: number;
  readonly received: number;
  /** Microseconds; null when nothing came back. */
  readonly rtt_us: Percentiles | null;
}

export function ping({ to, forMs }: PingWork, shared: Shared): PingResult {
  using socket = openPing(to).setTimeouts(ANSWER_LIMIT_MS);
  socket.connect({ ip: to, port: 0 });
  const request = new Uint8Array(HEADER + PAYLOAD);
  const answer = new Uint8Array(2048);
  const identifier = process.pid & 0xffff;
  const times: number[] = [];
  let sent = 0;
  const end = monotonicNs() + forMs * 1e6;
  while (monotonicNs() < end && !shared.stopped) {
    const sequence = sent & 0xffff;
    writeRequest(request, identifier, sequence);
    const start = monotonicNs();
    if (socket.send(request, request.length) !== request.length) break;
    shared.amounts[SENT] = ++sent;
    let length: number;
    do length = socket.recv(answer, answer.length);
    while (length >= 0 && !isAnswer(answer.subarray(0, length), request));
    if (length >= 0) {
      times.push((monotonicNs() - start) / 1000);
      shared.amounts[RECEIVED] = times.length;
    } else if (length !== -EAGAIN) break;
    shared.sleep(GAP_MS);
  }
  times.sort((a, b) => a - b);
  const rtt_us = times.length > 0 ? { p50: percentile(times, 0.5), p99: percentile(times, 0.99) } : null;
  return { sent, received: times.length, rtt_us };
}

function writeRequest(packet: Uint8Array, identifier: number, sequence: number): void {
  const view = new DataView(packet.buffer);
  packet[0] = ECHO_REQUEST;
  view.setUint16(2, 0);
  view.setUint16(4, identifier);
  view.setUint16(6, sequence);
  for (let i = HEADER; i < packet.length; i++) packet[i] = i + sequence;
  let sum = 0;
  for (let i = 0; i < packet.length; i += 2) sum += view.getUint16(i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  view.setUint16(2, ~sum & 0xffff);
}

/** Whether the packet, with its IPv4 header, carries all of our request back. */
function isAnswer(packet: Uint8Array, request: Uint8Array): boolean {
  const icmp = packet.subarray((packet[0]! & 15) * 4);
  if (icmp.length !== request.length || icmp[0] !== ECHO_REPLY) return false;
  for (let i = 4; i < icmp.length; i++) if (icmp[i] !== request[i]) return false;
  return true;
}
