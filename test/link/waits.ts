/** How long something took, again and again; judged where the machine was ours meanwhile. */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { CpuShare } from './cpu.js';

/** A machine of which others use more than this says nothing about us. */
const MOST_FOR_OTHERS = 0.2;
/** A soak has the machine for itself: it is to show something. */
const SOAK = process.env.POLYNIC_LONG === 'soak';

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
    assert.ok(all.length > 0, `${what}: nothing was measured`);
    const ms = [all[0]!, all[all.length >> 1]!, all.at(-1)!].map(Math.round);
    const aside = this.#others.length;
    const why = aside > 0 ? `; ${aside} are not judged: others used the machine meanwhile` : '';
    t.diagnostic(`${what}: ${all.length} times, ${ms.join(' / ')} ms (least/median/most)${why}`);
    assert.ok(
      this.#judged.every(ms => ms <= limitMs),
      `${what}: more than ${limitMs} ms`,
    );
    assert.ok(
      !SOAK || this.#judged.length >= all.length / 2,
      `${what}: others had the machine, nothing is shown`,
    );
  }
}
