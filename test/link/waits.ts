/** How long something took, again and again; judged where the machine was ours meanwhile. */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { CpuShare } from './cpu.js';

/** A machine of which others use more than this says nothing about us. */
const MOST_FOR_OTHERS = 0.2;

export class Waits {
  readonly #judged: number[] = [];
  readonly #others: number[] = [];

  /** Measures from the moment at which `begin` resolves until this does; `pids` are ours besides this process, and take part. */
  async measure(
    pids: readonly number[],
    begin: Promise<unknown>,
    end: () => Promise<unknown>,
  ): Promise<void> {
    const cpu = new CpuShare(pids);
    await begin;
    const begun = performance.now();
    await end();
    (cpu.others() <= MOST_FOR_OTHERS ? this.#judged : this.#others).push(performance.now() - begun);
  }

  /** Says how long they were; none that is judged may be longer than the limit. */
  judge(t: TestContext, what: string, limitMs: number): void {
    const all = [...this.#judged, ...this.#others].sort((a, b) => a - b);
    const ms = [all[0]!, all[all.length >> 1]!, all.at(-1)!].map(Math.round);
    const aside = this.#others.length;
    const why = aside > 0 ? `; ${aside} are not judged: others used the machine meanwhile` : '';
    t.diagnostic(`${what}: ${all.length} times, ${ms.join(' / ')} ms (least/median/most)${why}`);
    assert.ok(Math.max(...this.#judged) <= limitMs, `${what}: more than ${limitMs} ms`);
  }
}
