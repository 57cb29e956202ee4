/**
 * From what a device shows to what could run at once: contract, programs, queues. All that can fail or takes long is here; nothing of the device has
 * run by then, and what runs meanwhile goes on.
 */
import * as L from '../../../datapath/layout.js';
import type { Arena } from '../../memory/arena.js';
import type { Window } from '../../memory/window.js';
import type { Direction } from '../../nic/control.js';
import { parseOffloads } from '../../ring/features.js';
import type { CompiledPrograms } from './commands.js';
import { type Contract, DriverQueues, readContract } from './contract.js';
import { loadPrograms } from './programs.js';
import { whetherSealed } from './seal-policy.js';
import type { BpfhvTransport } from './transport.js';

/** What this driver can make use of. */
const ALL_FEATURES = parseOffloads('all')!;

export interface Prepared {
  readonly contract: Contract;
  /** For each worker. */
  readonly programs: readonly CompiledPrograms[];
  readonly queues: DriverQueues;
}

/** What it is prepared for. */
export interface PrepareHost {
  readonly transport: BpfhvTransport;
  readonly window: Window;
  readonly arena: Arena;
  /** Feature bits to accept; default: all that the driver can make use of. */
  readonly features?: bigint;
  /** Where programs have their stacks: one for each worker. */
  readonly stacks: readonly number[];
  /** Where frames lie while they are plaintext; null: there is no key. */
  readonly staging: Readonly<Record<Direction, number>> | null;
  readonly log?: (level: 'info' | 'warn' | 'error', message: string) => void;
}

/** Null: the device shows something else by now. Throws DriverError, MemoryError for a contract that can't be taken. */
export async function prepare(host: PrepareHost): Promise<Prepared | null> {
  const { transport } = host;
  const { generation } = transport;
  try {
    return await readAll(host);
  } catch (error) {
    if (transport.generation !== generation) return null; // half of it was of one contract, half of another
    throw error;
  }
}

async function readAll(host: PrepareHost): Promise<Prepared> {
  const { transport, arena, window, features = ALL_FEATURES, stacks, staging, log } = host;
  const read = await readContract(transport, features);
  const { programs, calls, summary } = await loadPrograms(transport, read, stacks);
  log?.('info', summary);
  const sealed = whetherSealed(calls, staging !== null);
  // What is encrypted can't be summed or cut by anybody else.
  const contract = sealed ? { ...read, features: 0n, overhead: L.SEAL_GROWTH } : read;
  const hooks = { prepare: calls.has('txh'), finish: calls.has('rxh'), staging };
  const queues = new DriverQueues(contract, { transport, arena, window }, hooks);
  return { contract, programs, queues };
}
