/**
 * Steps that wait for workers, one after the other: the requests of a guest, a change that an operator wants, the end. What a step has looked at is
 * still so when it goes on after a wait.
 */
export class Turns {
  #last: Promise<void> | null = null;

  /** Begins `step` at once when no other is under way, else when all before it are over, however they ended. Comes to what the step comes to. */
  take<T>(step: () => Promise<T>): Promise<T> {
    const turn = this.#last === null ? step() : this.#last.then(step);
    const over: Promise<void> = turn.then(ignore, ignore).then(() => {
      if (this.#last === over) this.#last = null;
    });
    this.#last = over;
    return turn;
  }
}

function ignore(): void {}
