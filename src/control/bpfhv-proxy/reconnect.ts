/**
 * Who speaks to whom, over time: the side that connects tries until the other side listens, and again after every session; the
 * side that listens serves one peer at a time. A session that does not get going ends by its own time limits, so
 * nobody holds the place for ever.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Channel } from './channel.js';

export interface RetryTimings {
  /** Pause after the first failure; it doubles with each further one. Milliseconds. */
  readonly firstDelayMs: number;
  readonly maxDelayMs: number;
  /** The limit after a session that was of no use: who listens will hardly be another one soon. Default: `maxDelayMs`. */
  readonly maxUselessDelayMs?: number;
}

/** A peer that is ready is to be found well within a second. */
export const DEFAULT_RETRY_TIMINGS: RetryTimings = { firstDelayMs: 50, maxDelayMs: 200 };

/** Errors of connect() that say "nobody listens there yet": the socket is missing, abandoned, or its backlog full. */
const NOBODY_THERE = new Set(['ENOENT', 'ECONNREFUSED', 'EAGAIN', 'ETIMEDOUT']);

export interface ReconnectOptions {
  /** One attempt. */
  readonly connect: () => Channel | Promise<Channel>;
  /** Uses a connection until it is over; says whether the peer was of any use, which resets the pause. */
  readonly session: (channel: Channel) => Promise<boolean>;
  readonly signal: AbortSignal;
  readonly timings?: Partial<RetryTimings>;
  /** Told before each pause; `error` is null after a session. */
  readonly onWait?: (delayMs: number, error: Error | null) => void;
}

/**
 * Connects, runs a session, and starts over, until the signal aborts. The caller's session has to end on that signal too.
 * Rejects when connecting fails for a reason that waiting does not mend (no permission, not a socket), or a session throws.
 */
export async function keepConnected(options: ReconnectOptions): Promise<void> {
  const { firstDelayMs, maxDelayMs, ...rest } = { ...DEFAULT_RETRY_TIMINGS, ...options.timings };
  const { maxUselessDelayMs = maxDelayMs } = rest;
  let delayMs = firstDelayMs;
  while (!options.signal.aborted) {
    let error: Error | null = null;
    let mostMs = maxDelayMs;
    try {
      const channel = await options.connect();
      if (await options.session(channel)) delayMs = firstDelayMs;
      else mostMs = maxUselessDelayMs;
    } catch (cause) {
      if (!isNobodyThere(cause)) throw cause;
      error = cause;
    }
    if (options.signal.aborted) return;
    delayMs = Math.min(delayMs, mostMs);
    options.onWait?.(delayMs, error);
    await pause(delayMs, options.signal);
    delayMs *= 2;
  }
}

/**
 * The listening side's one place. A newcomer is served at once when the place is free, else when the session there has ended; a
 * further newcomer takes the waiting one's place, since a peer that connects again has given its earlier connection up.
 */
export class ConnectionSlot {
  readonly #session: (channel: Channel) => Promise<unknown>;
  #running: Promise<void> | null = null;
  #waiting: Channel | null = null;
  #closed = false;

  /** `session` serves a connection until it is over, within time limits of its own, and does not reject. */
  constructor(session: (channel: Channel) => Promise<unknown>) {
    this.#session = session;
  }

  get busy(): boolean {
    return this.#running !== null;
  }

  /** Takes over a connection. */
  offer(channel: Channel): void {
    if (this.#closed) {
      channel.close();
      return;
    }
    this.#waiting?.close();
    this.#waiting = channel;
    this.#running ??= this.#run();
  }

  /** Admits nobody from now on, and resolves when the session under way has ended; ending it is the owner's. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#waiting?.close();
    this.#waiting = null;
    await this.#running;
  }

  async #run(): Promise<void> {
    for (let channel = this.#next(); channel !== null; channel = this.#next()) await this.#session(channel);
    this.#running = null;
  }

  #next(): Channel | null {
    const channel = this.#waiting;
    this.#waiting = null;
    return channel;
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  try {
    await sleep(ms, undefined, { signal });
  } catch (error) {
    if (!signal.aborted) throw error;
  }
}

function isNobodyThere(cause: unknown): cause is Error {
  return cause instanceof Error && NOBODY_THERE.has((cause as Error & { code?: string }).code ?? '');
}
