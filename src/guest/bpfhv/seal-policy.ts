/**
 * Which contracts a guest takes, for the sake of its secrets: looked up in the programs before any of them runs.
 *
 * ```
 *                     txh calls pkt_seal and rxh calls pkt_open    neither is called    anything else
 *   with a key        taken: all packets are sealed                refused              refused
 *   without           refused                                      taken                refused
 * ```
 * A key says that nothing is to leave unsealed: a device that comes with a contract which does not seal is not to be obeyed.
 */
import { PKT_OPEN, PKT_SEAL } from './helpers.js';
import type { ProgramSection } from './registers.js';
import { DriverError } from './transport.js';

/** The helpers that each program calls, by id. */
export type HelperCalls = ReadonlyMap<ProgramSection, ReadonlySet<number>>;

/** Whether the contract seals. Throws DriverError DRIVER_KEY when that does not go with having a key, or with having none. */
export function whetherSealed(calls: HelperCalls, hasKey: boolean): boolean {
  const callers = [...calls].filter(([, helpers]) => helpers.has(PKT_SEAL) || helpers.has(PKT_OPEN));
  if (callers.length === 0) {
    if (!hasKey) return false;
    throw refusal('does not seal packets, and this guest has a key to have them sealed');
  }
  if (!hasKey) throw refusal('seals packets, and this guest has no key: give it one with --key-file');
  const whole = (calls.get('txh')?.has(PKT_SEAL) && calls.get('rxh')?.has(PKT_OPEN)) ?? false;
  if (!whole) throw refusal('seals packets in one direction only');
  return true;
}

function refusal(what: string): DriverError {
  return new DriverError('DRIVER_KEY', `contract refused: the device ${what}`);
}
