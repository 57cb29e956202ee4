/**
 * Commands that change the memory a function may reach. A client sends them by the thousand, and each new memory costs the function a new table: so those
 * that have arrived one behind the other become one.
 *
 * ```
 *   DMA_MAP, DMA_MAP, DMA_UNMAP, … ──► table ──► one setMemory ──► their replies
 * ```
 * When the function refuses, half of them are tried, then the other half: at last only the culprit is refused. That is for a client with few culprits; one
 * with many gets the rest refused unseen.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { isErrno } from '../../linux/errors.js';
import { MemoryError } from '../../memory/window.js';
import type { PciFunction } from '../../pci/function.js';
import { type DmaChange, type DmaLimits, DmaTable } from './dma.js';
import type { Command } from './messages.js';

export type MemoryCommand = Extract<Command, { readonly name: 'DMA_MAP' | 'DMA_UNMAP' }>;

/** Memories that the function may refuse while the culprits among changes of one moment are looked for: enough for two or three among thousands. */
const MAX_REFUSALS = 32;

/** What is left of that; after the last one, the error that the other changes are refused with. */
interface Search {
  refusals: number;
  over: { readonly error: unknown } | null;
}

export class ServerMemory {
  readonly #fn: PciFunction;
  readonly #table: DmaTable;

  constructor(fn: PciFunction, limits: DmaLimits) {
    this.#fn = fn;
    this.#table = new DmaTable(limits);
  }

  /** What a command asks for. Owns its fd from now on. Throws VfioUserError. */
  toChange(command: MemoryCommand): DmaChange {
    return command.name === 'DMA_MAP'
      ? this.#table.toAdd(command.values, command.fds[0] ?? null)
      : this.#table.toRemove(command.values);
  }

  /** Makes all changes, in their order. Returns for each one why it could not be made, or null. Never rejects. */
  async change(changes: readonly DmaChange[]): Promise<unknown[]> {
    try {
      return await this.#apply(changes, { refusals: MAX_REFUSALS, over: null });
    } finally {
      this.#table.sweep();
    }
  }

  /** The client is gone. */
  close(): void {
    this.#table.close();
  }

  async #apply(changes: readonly DmaChange[], search: Search): Promise<unknown[]> {
    if (search.over) return refused(changes, search.over.error);
    const before = this.#table.snapshot();
    let changed = false;
    const errors = changes.map(change => {
      try {
        if (this.#table.apply(change)) changed = true;
        return null;
      } catch (error) {
        return error;
      }
    });
    if (!changed) return errors;
    try {
      await this.#fn.setMemory(this.#table.specs());
      return errors;
    } catch (error) {
      this.#table.restore(before);
      search.refusals -= 1;
      if (search.refusals === 0 || isNobodysFault(error)) search.over = { error };
      if (search.over || changes.length === 1) return refused(changes, error);
    }
    await nextTurn();
    const half = changes.length >>> 1;
    const first = await this.#apply(changes.slice(0, half), search);
    return [...first, ...(await this.#apply(changes.slice(half), search))];
  }
}

function refused(changes: readonly DmaChange[], error: unknown): unknown[] {
  return changes.map(() => error);
}

/** This side has no descriptors or no room left: fewer changes would not be better ones. */
function isNobodysFault(error: unknown): boolean {
  return (
    isErrno(error, 'EMFILE', 'ENFILE', 'ENOMEM') ||
    (error instanceof MemoryError && error.code === 'MEMORY_FULL')
  );
}
