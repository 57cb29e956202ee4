/**
 * Commands that change the memory a function may reach. A client sends them by the thousand, and each new memory costs the function a new table: so those
 * that have arrived one behind the other become one.
 *
 * ```
 *   DMA_MAP, DMA_MAP, DMA_UNMAP, … ──► table ──► one setMemory ──► their replies
 * ```
 * When the function refuses, half of them are tried, then the other half: at last only the culprit is refused.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { PciFunction } from '../../pci/function.js';
import { type DmaChange, type DmaLimits, DmaTable } from './dma.js';
import type { Command } from './messages.js';

export type MemoryCommand = Extract<Command, { readonly name: 'DMA_MAP' | 'DMA_UNMAP' }>;

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
      return await this.#apply(changes);
    } finally {
      this.#table.sweep();
    }
  }

  /** The client is gone. */
  close(): void {
    this.#table.close();
  }

  async #apply(changes: readonly DmaChange[]): Promise<unknown[]> {
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
      if (changes.length === 1) return [error];
    }
    await nextTurn();
    const half = changes.length >>> 1;
    return [...(await this.#apply(changes.slice(0, half))), ...(await this.#apply(changes.slice(half)))];
  }
}
