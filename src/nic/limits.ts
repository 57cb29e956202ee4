/** How many queues and buffers a NIC can have, and the check of what a hypervisor asks for. */
import { NicError, type NicParameters } from './control.js';

/** Descriptors of a queue: a power of two in this range. */
export const MIN_BUFS = 16;
export const MAX_BUFS = 8192;
export const MAX_QUEUE_PAIRS = 32;

export interface NicLimits {
  readonly queuePairs: number;
  readonly bufs: number;
}

/** Throws NicError NIC_PARAMETERS when there would be too many queues or buffers, none, or buffers that are no power of two. */
export function checkParameters(parameters: NicParameters, { queuePairs, bufs }: NicLimits): void {
  const { numRxQueues, numTxQueues, numRxBufs, numTxBufs } = parameters;
  for (const [what, n] of [
    ['receive', numRxQueues],
    ['transmit', numTxQueues],
  ] as const) {
    if (n >= 1 && n <= queuePairs) continue;
    throw new NicError('NIC_PARAMETERS', `${n} ${what} queues: 1 to ${queuePairs} can be had`);
  }
  for (const [what, n] of [
    ['receive', numRxBufs],
    ['transmit', numTxBufs],
  ] as const) {
    if (n >= MIN_BUFS && n <= bufs && (n & (n - 1)) === 0) continue;
    const range = `a power of two from ${MIN_BUFS} to ${bufs}`;
    throw new NicError('NIC_PARAMETERS', `${n} ${what} buffers: ${range} can be had`);
  }
}
