/** `--offload LIST`: which of a NIC's offloads are wanted. */
import { offloadUsage, parseOffloads } from '../ring/features.js';
import { UsageError } from './host.js';

export const offloadHelp = `offloads: ${offloadUsage}`;

/** Feature bits, for commander. Throws UsageError. */
export function offloads(text: string): bigint {
  const features = parseOffloads(text);
  if (features === null) throw new UsageError(`--offload takes ${offloadUsage}, not "${text}"`);
  return features;
}

/** Throws UsageError when an offload that was asked for by name is none of the device type's. */
export function checkOffloads(wanted: bigint, { name, features }: { name: string; features: bigint }): void {
  if (wanted !== allOffloads && (wanted & ~features) !== 0n) {
    throw new UsageError(`--offload: device type ${name} does not have all of these`);
  }
}

/** The default: whatever there is. */
export const allOffloads = parseOffloads('all')!;
