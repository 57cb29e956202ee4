/**
 * Who has sealed what came: a window of counters for every prefix, so that each packet is taken once.
 *
 * ```
 *                  top - 1023                       top
 *   ── too old ────────┼── seen? one bit each ────────┼── new: the window moves up ──►  counter
 * ```
 * A prefix gets its window when a packet of it has proved authentic, and keeps it: forgetting one would let an attacker play it again. So only
 * who has the key can fill this table, and when it is full, new senders are refused until the key is changed and the guest started anew.
 */
export const PREFIX_BYTES = 7;
/** Packets that may overtake one another. */
export const REPLAY_WINDOW = 1024;
export const MAX_SENDERS = 4096;

/** The counters of one prefix. */
class Sender {
  /** The highest counter so far. */
  #top = -1;
  readonly #seen = new Uint32Array(REPLAY_WINDOW / 32);
  /** Our own prefix: what comes back to us is not for us. */
  barred = false;

  isNew(counter: number): boolean {
    if (this.barred || counter <= this.#top - REPLAY_WINDOW) return false;
    return counter > this.#top || (this.#seen[word(counter)]! & bit(counter)) === 0;
  }

  take(counter: number): void {
    if (counter - this.#top >= REPLAY_WINDOW) {
      this.#seen.fill(0);
      this.#top = counter;
    }
    while (this.#top < counter) {
      this.#top++;
      this.#seen[word(this.#top)]! &= ~bit(this.#top);
    }
    this.#seen[word(counter)]! |= bit(counter);
  }
}

export class Senders {
  readonly #byPrefix = new Map<string, Sender>();
  readonly #max: number;
  /** The one that sent last is most likely to send next. */
  #last: Sender | null = null;
  readonly #lastPrefix = new Uint8Array(PREFIX_BYTES);

  constructor(max = MAX_SENDERS) {
    this.#max = max;
  }

  /** Whether a packet with that counter, and the prefix at `at`, may be one that we have not had. */
  mayBeNew(bytes: Uint8Array, at: number, counter: number): boolean {
    const sender = this.#find(bytes, at);
    return sender ? sender.isNew(counter) : this.#byPrefix.size < this.#max;
  }

  /** That packet is authentic. */
  take(bytes: Uint8Array, at: number, counter: number): void {
    (this.#find(bytes, at) ?? this.#add(bytes, at)).take(counter);
  }

  /** Makes a prefix our own. False: somebody has it, take another. */
  claim(prefix: Uint8Array): boolean {
    if (this.#find(prefix, 0)) return false;
    this.#add(prefix, 0).barred = true;
    return true;
  }

  #find(bytes: Uint8Array, at: number): Sender | null {
    if (this.#last && this.#isLast(bytes, at)) return this.#last;
    const sender = this.#byPrefix.get(name(bytes, at)) ?? null;
    if (sender) this.#remember(sender, bytes, at);
    return sender;
  }

  #add(bytes: Uint8Array, at: number): Sender {
    const sender = new Sender();
    this.#byPrefix.set(name(bytes, at), sender);
    this.#remember(sender, bytes, at);
    return sender;
  }

  #remember(sender: Sender, bytes: Uint8Array, at: number): void {
    this.#last = sender;
    for (let i = 0; i < PREFIX_BYTES; i++) this.#lastPrefix[i] = bytes[at + i]!;
  }

  #isLast(bytes: Uint8Array, at: number): boolean {
    for (let i = 0; i < PREFIX_BYTES; i++) if (bytes[at + i] !== this.#lastPrefix[i]) return false;
    return true;
  }
}

function name(bytes: Uint8Array, at: number): string {
  return String.fromCharCode(...bytes.subarray(at, at + PREFIX_BYTES));
}

function word(counter: number): number {
  return (counter % REPLAY_WINDOW) >>> 5;
}

function bit(counter: number): number {
  return 1 << (counter & 31);
}
