/**
 * A guest stops in order to start with what it has prepared: its packets wait until then, so this thread goes before others for a moment.
 */
import { beginUrgent, endUrgent } from '../linux/urgent.js';

/** A swap takes less; a guest that takes longer has other things to do. */
const HURRY_MS = 20;

export class Hurry {
  #timer: NodeJS.Timeout | null = null;

  begin(): void {
    if (this.#timer) return;
    beginUrgent();
    this.#timer = setTimeout(() => this.end(), HURRY_MS);
  }

  end(): void {
    if (!this.#timer) return;
    clearTimeout(this.#timer);
    this.#timer = null;
    endUrgent();
  }
}
