/**
 * A NIC as text, for people: what was agreed on, and every queue with its context, its ring, its fault and its counters.
 *
 * ```
 *   device sring, features 0x0 of 0x0, rx on, tx on
 *   queue 0 rx: 256 descriptors, context 0x100000000, fault none
 *     ring    prod 256  cons 0  …
 * ```
 */
import * as L from '../../datapath/layout.js';
import type { Window } from '../memory/window.js';
import { faultName } from '../ring/dump.js';
import type { DeviceType } from '../ring/ring.js';
import type { Queue, QueueStats } from './queue.js';

export interface DumpedNic {
  readonly device: DeviceType;
  /** Feature bits. */
  readonly offered: bigint;
  readonly agreed: bigint;
  readonly rxEnabled: boolean;
  readonly txEnabled: boolean;
  readonly queues: readonly Queue[];
}

/** Lines, the last one without an end. */
export function dumpNic(window: Window, nic: DumpedNic): string {
  const { device, offered, agreed, rxEnabled, txEnabled } = nic;
  const state = (on: boolean) => (on ? 'on' : 'off');
  return [
    `device ${device.name}, features ${hex(agreed)} of ${hex(offered)}, rx ${state(rxEnabled)}, tx ${state(txEnabled)}`,
    ...nic.queues.map(queue => dumpQueue(window, device, queue)),
  ].join('\n');
}

/** One line of counters, those that are 0 left out. */
export function counterLine(stats: QueueStats): string {
  const counted = Object.entries(stats).filter(([, n]) => n > 0);
  return counted.length === 0 ? 'nothing counted' : counted.map(([name, n]) => `${name} ${n}`).join('  ');
}

function dumpQueue(window: Window, device: DeviceType, queue: Queue): string {
  const { address, index, direction, contextGpa } = queue;
  const num = window.words[(address + L.QUEUE_NUM) >>> 2]!;
  const where = contextGpa === null ? 'no context' : `context ${hex(contextGpa)}`;
  const ring = contextGpa === null ? undefined : device.dump?.(window, address, direction === 'rx');
  return [
    `queue ${index} ${direction}: ${num} descriptors, ${where}, fault ${faultName(queue.fault)}`,
    ...(ring?.split('\n') ?? []).map(line => `  ${line}`),
    `  counted ${counterLine(queue.stats)}`,
  ].join('\n');
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`;
}
