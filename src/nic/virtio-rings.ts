/**
 * The rings of a virtio NIC, between the front end that speaks of them and the workers that run them.
 *
 * ```
 *   a request ──► rings that it concerns leave the workers ──► change ──► rings that can run are placed ──► and handed to the workers
 *                 the others go on                                                                         (only if something changed)
 * ```
 * So nothing is changed under a worker, and a request is done when its answer goes out.
 */
import type { MemoryError } from '../memory/window.js';
import type { Miss } from '../ring/virtio/virtq.js';
import { type Lacks, VIRTIO } from './commands.js';
import { NicError } from './control.js';
import { drain } from './drain.js';
import { bringIn, giveWay } from './reach.js';
import type { VirtioHost } from './virtio-host.js';
import type { Stage } from './virtio-stage.js';
import { Vring } from './vring.js';
import type { Missed, PairStart, Workers } from './workers.js';

/** A ring waits for a header or a table of descriptors to be in the window: no more than this of it is of use at once. */
const MAX_REACH = 65536;

/** Why a ring stands still that has no translations. */
const ASKED = 'its addresses are not translated yet';
const CAN_NOT_ASK = 'the front end has no channel for questions';

/** Which rings a change concerns. */
export type Concerned = (ring: Vring) => boolean;
export const ALL: Concerned = () => true;
export const NONE: Concerned = () => false;
const RECEIVING: Concerned = ({ direction }) => direction === 'rx';
export const only =
  (ring: Vring): Concerned =>
  other =>
    other === ring;

export interface VirtioRingsOptions {
  readonly host: VirtioHost;
  readonly workers: Workers;
  readonly stage: Stage;
  readonly queuePairs: number;
  /** Sentences for the operator. */
  readonly say: (level: 'info' | 'warn', message: string) => void;
}

export class VirtioRings {
  readonly #options: VirtioRingsOptions;
  /** Those that somebody has spoken of, by their number. */
  readonly #rings = new Map<number, Vring>();
  /** What the workers have, in a form to compare. */
  readonly #deployed = { rx: '[]', tx: '[]' };
  #lanes = 0;
  #quiet = false;
  /** Rings are enabled from the start. */
  enables = false;

  constructor(options: VirtioRingsOptions) {
    this.#options = options;
  }

  /** In the order of their numbers. */
  get all(): readonly Vring[] {
    return [...this.#rings.values()].sort((a, b) => a.index - b.index);
  }

  /** Throws NicError NIC_QUEUE. */
  at(index: number): Vring {
    const known = this.#rings.get(index);
    if (known) return known;
    const { host, queuePairs } = this.#options;
    if (index >= 2 * queuePairs)
      throw new NicError('NIC_QUEUE', `ring ${index}: there are ${2 * queuePairs}`);
    const ring = new Vring(host, index, this.enables);
    this.#rings.set(index, ring);
    return ring;
  }

  /** Takes the rings that are concerned from the workers, makes a change, and has every ring run that can. */
  async rearrange<T>(concerned: Concerned, change: () => T | Promise<T>): Promise<T> {
    await this.#deploy(concerned);
    try {
      return await change();
    } finally {
      this.#place();
      await this.#deploy(NONE);
    }
  }

  /** Throws NicError NIC_RING when the ring could run but for a mistake in what was said about it. */
  complain({ index, placed, complaint }: Vring): void {
    const { translates, memory } = this.#options.stage;
    if (placed || complaint === '' || translates || !memory.table) return;
    throw new NicError('NIC_RING', `ring ${index} can't run: ${complaint}`);
  }

  /** Memory or translations are others: rings are found there, or lose their place. For a change that concerns all. */
  move(): void {
    const { stage, say } = this.#options;
    const former = stage.iotlb.rebuild(stage.memory);
    const { ground } = stage;
    for (const ring of this.all) {
      if (!ring.placed) continue;
      try {
        this.#checkTranslations(ring);
        if (!ground) throw new NicError('NIC_NO_MEMORY', 'there is no memory');
        ring.move(ground);
        ring.setLog(stage.logGround);
      } catch (error) {
        ring.displace();
        say('warn', `ring ${ring.index} loses its place: ${(error as Error).message}`);
      }
    }
    former?.close();
  }

  /** What is marked of what they write has changed. For a change that concerns them. One whose writes can't be marked loses its place. */
  setLogs(concerned: Concerned): void {
    const { stage, say } = this.#options;
    for (const ring of this.all) {
      if (!concerned(ring) || !ring.placed) continue;
      try {
        ring.setLog(stage.logGround);
      } catch (error) {
        ring.displace();
        say('warn', `ring ${ring.index} loses its place: ${(error as Error).message}`);
      }
    }
  }

  /** A ring waits: for buffers to be in the window, or for what its structure says. False: there is no room; `last`: it is stopped then. */
  async missed(queue: number, lacks: Lacks | null, last: boolean): Promise<boolean> {
    const { say } = this.#options;
    const ring = this.all.find(({ virtq }) => virtq.address === queue);
    if (!ring?.placed || this.#quiet) return true;
    const miss = lacks ? null : ring.virtq.miss;
    if (miss && miss.kind !== 'window') {
      this.#askFor(ring, miss);
      return true;
    }
    return this.rearrange(ALL, () => {
      const failure = this.#bringIn(miss, lacks);
      this.move();
      if (!failure || !last) return !failure;
      // It would be back at once with the same wish.
      say('warn', `ring ${ring.index} is stopped: ${failure.message}`);
      ring.stop();
      ring.signalError();
      return false;
    });
  }

  /** Others need room in the window. */
  async giveWay(): Promise<void> {
    await this.rearrange(ALL, () => {
      const { table } = this.#options.stage.memory;
      if (!table) return;
      giveWay(table);
      this.move();
    });
  }

  /** The front end has said something of these addresses. */
  answered(iova: bigint, size: bigint): void {
    for (const ring of this.#rings.values()) ring.questions.answered(iova, size);
  }

  /** Whoever was asked is gone: all questions are open again. */
  askAnew(): void {
    for (const ring of this.#rings.values()) ring.questions.clear();
  }

  /** The ring waits until it is told. */
  #askFor(ring: Vring, { address, kind }: Miss): void {
    const { stage, say } = this.#options;
    try {
      if (!stage.ask) throw new NicError('NIC_TRANSLATION', CAN_NOT_ASK);
      ring.questions.put(address, kind === 'write', stage.ask);
    } catch (error) {
      const what = `ring ${ring.index} waits for the translation of 0x${address.toString(16)}`;
      say('warn', `${what}: ${(error as Error).message}`);
      ring.signalError();
    }
  }

  /** All of them leave the workers; then `each` is done to each. */
  async forget(each: (ring: Vring) => void): Promise<void> {
    await this.#deploy(ALL);
    for (const ring of this.#rings.values()) each(ring);
    this.enables = false;
  }

  /** The port is another one: how many lanes are read has to be said again. */
  portChanged(): void {
    this.#lanes = 0;
  }

  /** No ring runs any more, whatever is asked for. Returns the packets that the guest has published and that were not sent. */
  async quiesce(): Promise<number> {
    const { workers } = this.#options;
    try {
      await this.#deploy(RECEIVING);
      const queues = this.all.filter(ring => !RECEIVING(ring)).map(({ virtq }) => virtq.address);
      return await drain(workers, queues, misses => this.#reach(misses));
    } finally {
      this.#quiet = true;
      this.#deployed.tx = '[]';
    }
  }

  close(): void {
    for (const ring of this.#rings.values()) ring.close();
    this.#rings.clear();
  }

  /** Brings in what rings wait for, and has the transmitting ones run again; none runs now. False: nothing of it is to be had. */
  async #reach(misses: readonly Missed[]): Promise<boolean> {
    this.#deployed.tx = '[]';
    let reached = false;
    for (const { queue, lacks } of misses) {
      const ring = this.all.find(({ virtq }) => virtq.address === queue);
      const miss = lacks ? null : (ring?.virtq.miss ?? null);
      if (!ring?.placed || (miss && miss.kind !== 'window')) continue;
      if (this.#bringIn(miss, lacks) === null) reached = true;
    }
    if (!reached) return false;
    this.move();
    await this.#deploy(RECEIVING);
    return true;
  }

  /** Memory that a ring waits for. Null, or why there is no room. No ring may run; `move` is due. */
  #bringIn(miss: Miss | null, lacks: Lacks | null): MemoryError | null {
    const { memory, table } = this.#options.stage;
    const own = memory.table;
    if (!own) return null;
    return bringIn(own, () => {
      if (miss) table?.reach(miss.address, Math.min(miss.length, MAX_REACH));
      if (lacks) own.reachBuffers(lacks.first, lacks.others);
    });
  }

  /** The workers have all rings that have something to do, but for those that `without` names. */
  async #deploy(without: Concerned): Promise<void> {
    const { workers, stage } = this.#options;
    const { partial } = stage;
    for (const direction of ['tx', 'rx'] as const) {
      const due = this.all.filter(
        ring => ring.direction === direction && ring.duty !== 'idle' && !this.#quiet && !without(ring),
      );
      const plan = JSON.stringify(due.map(ring => [ring.index, ring.duty, ring.kickFd, partial]));
      if (plan === this.#deployed[direction] || workers.failure) continue;
      const starts = due.map((ring): PairStart => {
        const { virtq, kickFd, callFd, duty, pair } = ring;
        return { queue: virtq.address, kick: kickFd, irq: callFd, discard: duty === 'discard', pair };
      });
      await workers.run(VIRTIO, direction, starts, partial);
      this.#deployed[direction] = plan;
      if (direction === 'rx' && due.length > 0) this.#useLanes(1 + due.at(-1)!.pair);
    }
  }

  /** The kernel, or whoever is behind the port, uses no lane that nobody reads. */
  #useLanes(lanes: number): void {
    if (lanes === this.#lanes) return;
    this.#lanes = lanes;
    this.#options.workers.port.useLanes?.(lanes);
  }

  /** Every ring that is started, and is not placed, is placed if that can be. What stands in the way is kept as its complaint. */
  #place(): void {
    const { stage, say } = this.#options;
    const { ground } = stage;
    for (const ring of this.all) {
      if (!ring.complete || ring.placed) continue;
      const told = ring.base;
      try {
        this.#checkTranslations(ring);
        if (!ground) throw new NicError('NIC_NO_MEMORY', 'there is no memory');
        ring.place(ground);
        ring.complaint = '';
        ring.setLog(stage.logGround);
        const where = `0x${ring.base.toString(16)}${ring.base === told ? '' : `, not 0x${told.toString(16)}`}`;
        say('info', `ring ${ring.index} runs, ${ring.num} descriptors, from ${where}`);
      } catch (error) {
        if (ring.placed) ring.displace(); // what it writes can't be marked
        const { message } = error as Error;
        if (message === ring.complaint) continue;
        ring.complaint = message;
        if (message === ASKED) continue;
        say('warn', `ring ${ring.index} can't run: ${message}`);
        ring.signalError();
      }
    }
  }

  /** Throws NicError NIC_TRANSLATION when the ring's areas are not known, or may not be used as they have to be. Those are asked for; throws what that throws. */
  #checkTranslations(ring: Vring): void {
    const { translates, features, iotlb, ask } = this.#options.stage;
    if (!translates) return;
    const missing = ring
      .wanted(features)
      .map(([iova, length, write]) => ({ iova: iotlb.missing(iova, length, write), write }))
      .filter(({ iova }) => iova !== null);
    if (missing.length === 0) return;
    if (!ask) throw new NicError('NIC_TRANSLATION', CAN_NOT_ASK);
    for (const { iova, write } of missing) ring.questions.put(iova!, write, ask);
    throw new NicError('NIC_TRANSLATION', ASKED);
  }
}
