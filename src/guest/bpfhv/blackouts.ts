/** How long the last changes of contract kept packets waiting. Each worker tells its own time; that of the change is the longest. */
import type { Blackout } from './commands.js';

const MOST = 1000;

export class Blackouts {
  readonly #all: Blackout[] = [];
  /** There was a change of which no worker has told yet. */
  #due = false;

  /** The oldest first. */
  get all(): readonly Blackout[] {
    return this.#all;
  }

  /** What is told from now on is of another change. */
  begin(): void {
    this.#due = true;
  }

  /** A worker tells. True: it is the first one to tell of that change. */
  add(blackout: Blackout): boolean {
    const first = this.#due;
    this.#due = false;
    const before = first ? undefined : this.#all.pop();
    this.#all.push(before ? longest(before, blackout) : blackout);
    if (this.#all.length > MOST) this.#all.shift();
    return first;
  }
}

function longest(a: Blackout, b: Blackout): Blackout {
  const longer = (x: number | null, y: number | null) =>
    x === null || y === null ? (x ?? y) : Math.max(x, y);
  return { stopped: Math.max(a.stopped, b.stopped), tx: longer(a.tx, b.tx), rx: longer(a.rx, b.rx) };
}
