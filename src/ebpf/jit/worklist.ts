/**
 * The blocks that a data-flow analysis still has to look at. They come round and round in the order of the analysis, so
 * that most blocks are looked at after all those that they depend on.
 */
import type { FunctionGraph } from './cfg.js';

export interface Place {
  readonly graph: number;
  readonly block: number;
}

export class Worklist {
  readonly #backward: boolean;
  /** By position: 1 while the block is to be looked at. The blocks of all functions stand one after another. */
  readonly #pending: Uint8Array;
  readonly #graphAt: Int32Array;
  readonly #firstOf: readonly number[];
  #cursor = 0;

  constructor(graphs: readonly FunctionGraph[], direction: 'forward' | 'backward') {
    this.#backward = direction === 'backward';
    let total = 0;
    this.#firstOf = graphs.map(graph => (total += graph.blocks.length) - graph.blocks.length);
    this.#pending = new Uint8Array(total);
    this.#graphAt = new Int32Array(total);
    graphs.forEach((graph, index) => {
      this.#graphAt.fill(index, this.#firstOf[index]!, this.#firstOf[index]! + graph.blocks.length);
    });
  }

  push(graph: number, block: number): void {
    this.#pending[this.#mirror(this.#firstOf[graph]! + block)] = 1;
  }

  pop(): Place | undefined {
    let next = this.#pending.indexOf(1, this.#cursor);
    if (next < 0) next = this.#pending.indexOf(1);
    if (next < 0) return undefined;
    this.#pending[next] = 0;
    this.#cursor = next;
    const position = this.#mirror(next);
    const graph = this.#graphAt[position]!;
    return { graph, block: position - this.#firstOf[graph]! };
  }

  #mirror(position: number): number {
    return this.#backward ? this.#pending.length - 1 - position : position;
  }
}
