/**
 * The NICs of a configuration and the processes that serve them.
 *
 * ```
 *              open                          it fails, its process ends
 *   absent ──────────► open ─────────────────────────────────────────► waiting ── 0.1 s, doubling to 5 s ──► open …
 *                        │ the file has changed: change, or close and open            one after the other for each NIC, all NICs at once
 * ```
 * A NIC that can't be opened is no reason for the others not to run, and is tried again.
 */
import type { Log } from '../log.js';
import type { MemberEvents, MemberProcess } from './member-process.js';
import type { FileNic } from './nics.js';
import { type Change, plan } from './plan.js';

export interface Pauses {
  readonly firstMs: number;
  readonly maxMs: number;
  /** A NIC that has lived for so long fails for the first time again. */
  readonly livedMs: number;
}

export const PAUSES: Pauses = { firstMs: 100, maxMs: 5000, livedMs: 10_000 };

export interface SupervisorOptions {
  /** Starts the process of that name. */
  readonly start: (what: string, events: MemberEvents) => Pick<MemberProcess, 'request' | 'end'>;
  readonly log: Log;
  readonly pauses?: Pauses;
}

/** A NIC that is to be there. */
interface Slot {
  nic: FileNic;
  /** When it was opened; null: it is not open. */
  since: number | null;
  pauseMs: number;
  timer: NodeJS.Timeout | null;
  /** What was said about it last, and is not said again while it comes and goes. */
  complaint: string;
  /** What is done to it is done one after the other. */
  turn: Promise<void>;
}

export class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #pauses: Pauses;
  readonly #slots = new Map<string, Slot>();
  readonly #processes = new Map<string, ReturnType<SupervisorOptions['start']>>();
  #applied: Promise<unknown> = Promise.resolve();
  #stopping = false;

  constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#pauses = options.pauses ?? PAUSES;
  }

  /** Makes these the NICs; those that are as wanted are not touched. Resolves, when that was tried, to what was done, in words. */
  apply(wanted: readonly FileNic[]): Promise<string> {
    const done = this.#applied.then(() => this.#apply(wanted));
    this.#applied = done;
    return done;
  }

  /** Closes all NICs, with what the guests have published sent, and ends all processes. */
  async stop(): Promise<void> {
    this.#stopping = true;
    for (const { timer } of this.#slots.values()) clearTimeout(timer ?? undefined);
    await Promise.all([...this.#processes.keys()].map(what => this.#end(what)));
    await this.#applied;
  }

  async #apply(wanted: readonly FileNic[]): Promise<string> {
    const { close, change, open } = plan(
      [...this.#slots.values()].map(({ nic }) => nic),
      wanted,
    );
    await Promise.all(close.map(nic => this.#close(nic)));
    await Promise.all(change.map(one => this.#change(one)));
    for (const nic of open) this.#slots.set(nic.name, this.#slot(nic));
    await Promise.all(open.map(nic => this.#open(this.#slots.get(nic.name)!)));
    const used = new Set([...this.#slots.values()].map(({ nic }) => nic.process));
    await Promise.all(
      [...this.#processes.keys()].filter(what => !used.has(what)).map(what => this.#end(what)),
    );
    const names = (nics: readonly FileNic[]) => nics.map(({ name }) => name).join(', ') || 'none';
    return `closed ${names(close)}; changed ${names(change.map(({ to }) => to))}; opened ${names(open)}`;
  }

  #slot(nic: FileNic): Slot {
    const { firstMs } = this.#pauses;
    const rest = { pauseMs: firstMs, timer: null, complaint: '', turn: Promise.resolve() };
    return { nic, since: null, ...rest };
  }

  /** Never rejects. */
  #open(slot: Slot): Promise<void> {
    return this.#inTurn(slot, async () => {
      const { name, words, process } = slot.nic;
      if (slot.since !== null || this.#slots.get(name) !== slot) return;
      try {
        await this.#process(process).request({ op: 'open', words });
        slot.since = performance.now();
        this.#options.log('info', `${name} is open`);
      } catch (error) {
        this.#lost(slot, `can't be opened: ${(error as Error).message}`);
      }
    });
  }

  #change({ to, wish }: Change): Promise<void> {
    const slot = this.#slots.get(to.name)!;
    return this.#inTurn(slot, async () => {
      const { nic } = slot;
      if (slot.since !== null) {
        try {
          await this.#process(nic.process).request({ op: 'change', name: nic.name, wish });
        } catch (error) {
          // One that has failed meanwhile is opened as it is to be.
          if (slot.since !== null) {
            this.#options.log('error', `${nic.name} stays as it is: ${(error as Error).message}`);
            return;
          }
        }
      }
      slot.nic = to;
    });
  }

  #close({ name, process }: FileNic): Promise<void> {
    const slot = this.#slots.get(name)!;
    this.#slots.delete(name);
    clearTimeout(slot.timer ?? undefined);
    return this.#inTurn(slot, async () => {
      if (slot.since === null) return;
      try {
        await this.#process(process).request({ op: 'close', name });
      } catch (error) {
        this.#options.log('warn', `${name}: ${(error as Error).message}`);
      }
    });
  }

  /** Nothing is begun any more once all are to end. */
  #inTurn(slot: Slot, action: () => Promise<void>): Promise<void> {
    slot.turn = slot.turn.then(() => (this.#stopping ? undefined : action()));
    return slot.turn;
  }

  /** It is not open any more, or could not be opened: it will be. */
  #lost(slot: Slot, why: string): void {
    const { firstMs, maxMs, livedMs } = this.#pauses;
    if (slot.since !== null && performance.now() - slot.since >= livedMs) {
      slot.pauseMs = firstMs;
      slot.complaint = '';
    }
    slot.since = null;
    if (this.#stopping || this.#slots.get(slot.nic.name) !== slot) return;
    if (why !== slot.complaint) this.#options.log('error', `${slot.nic.name} ${why}; it is tried again`);
    slot.complaint = why;
    slot.timer = setTimeout(() => void this.#open(slot), slot.pauseMs);
    slot.pauseMs = Math.min(2 * slot.pauseMs, maxMs);
  }

  /** The process of that name; a new one when there is none. */
  #process(what: string): ReturnType<SupervisorOptions['start']> {
    const there = this.#processes.get(what);
    if (there) return there;
    const started = this.#options.start(what, {
      onFailed: (name, message) => {
        const slot = this.#slots.get(name);
        if (slot?.nic.process === what && slot.since !== null) this.#lost(slot, `has failed: ${message}`);
      },
      onEnd: how => {
        this.#processes.delete(what);
        for (const slot of this.#slots.values()) {
          if (slot.nic.process === what && slot.since !== null)
            this.#lost(slot, `has lost its process: ${how}`);
        }
      },
    });
    this.#processes.set(what, started);
    return started;
  }

  async #end(what: string): Promise<void> {
    const process = this.#processes.get(what)!;
    this.#processes.delete(what);
    const left = await process.end();
    if (left === null) this.#options.log('warn', `the process of ${what} ended without a word`);
    for (const [kind, n] of Object.entries(left ?? {})) {
      if (n > 0) this.#options.log('warn', `the process of ${what} has not given back ${n} ${kind}`);
    }
  }
}
