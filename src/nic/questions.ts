/**
 * What a ring has asked the front end's IOMMU, and was not told yet: nobody asks twice.
 *
 * ```
 *   ring A misses a ──► asks ······················► told a        every answer has all rings look again, also those that wait for
 *   ring B misses b ──► asks ·····► told b   ▲                     another: here A would ask once more
 *                                            A looks again
 * ```
 * With two rings the questions under way would become more with every answer, until most are about pages that the guest has long taken back.
 */
import type { AskTranslation } from './vhost-control.js';

/** A ring has three areas, and stops at one buffer. More than these are of a guest that changes its mind: the oldest may be asked again. */
const MOST = 8;

export class Questions {
  #open: { readonly iova: bigint; readonly write: boolean }[] = [];

  /** Asks, unless the same is under way. Throws what asking throws: then it is not. */
  put(iova: bigint, write: boolean, ask: AskTranslation): void {
    if (this.#open.some(one => one.iova === iova && one.write === write)) return;
    ask(iova, write);
    this.#open.push({ iova, write });
    if (this.#open.length > MOST) this.#open.shift();
  }

  /** Something was said of these addresses. */
  answered(iova: bigint, size: bigint): void {
    this.#open = this.#open.filter(one => one.iova < iova || one.iova >= iova + size);
  }

  clear(): void {
    this.#open = [];
  }
}
