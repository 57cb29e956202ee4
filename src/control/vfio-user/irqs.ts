/**
 * SET_IRQS: what a client says of a range of interrupts, and the calls of the function that it means.
 *
 * ```
 *              DATA_NONE               DATA_BOOL            DATA_EVENTFD
 *   TRIGGER    raise each,             raise where true     connect each to its eventfd; no fds: to nothing
 *              count 0: all to nothing
 *   MASK       hold each back          where true           -
 *   UNMASK     let each go             where true           INTx: whenever the eventfd is signalled; no fd: no more
 * ```
 */
import { ERRNO } from '../../linux/errors.js';
import { EventFd } from '../../linux/eventfd.js';
import type { OwnedFd } from '../../linux/fd.js';
import { IRQ, NUM_IRQS } from '../../linux/vfio-numbers.js';
import { type Watch, watchReadable } from '../../linux/watch.js';
import type { PciFunction } from '../../pci/function.js';
import { VfioUserError } from './errors.js';
import type { CommandValues } from './messages.js';
import { IRQ_FLAG, IRQ_SET } from './requests.js';

type Values = CommandValues<'SET_IRQS'>;

const DATA = IRQ_SET.DATA_NONE | IRQ_SET.DATA_BOOL | IRQ_SET.DATA_EVENTFD;
const ACTION = IRQ_SET.MASK | IRQ_SET.UNMASK | IRQ_SET.TRIGGER;

/** With count 0. */
const DISABLE = IRQ_SET.DATA_NONE | IRQ_SET.TRIGGER;

/** By kind of interrupt. Any vector of MSI-X can come and go by itself, so no NORESIZE. */
const FLAGS: Readonly<Record<number, number>> = {
  [IRQ.INTX]: IRQ_FLAG.EVENTFD | IRQ_FLAG.MASKABLE | IRQ_FLAG.AUTOMASKED,
  [IRQ.MSI]: IRQ_FLAG.EVENTFD,
  [IRQ.MSIX]: IRQ_FLAG.EVENTFD,
  [IRQ.ERR]: IRQ_FLAG.EVENTFD | IRQ_FLAG.NORESIZE,
  [IRQ.REQ]: IRQ_FLAG.EVENTFD | IRQ_FLAG.NORESIZE,
};

/** Lets an action have the function for itself, after whatever is being done with it. */
export type InTurn = <T>(action: () => T | Promise<T>) => Promise<T>;

export class Irqs {
  readonly #fn: PciFunction;
  readonly #inTurn: InTurn;
  #unmasker: Watch | null = null;
  #unmaskFd: EventFd | null = null;

  constructor(fn: PciFunction, inTurn: InTurn) {
    this.#fn = fn;
    this.#inTurn = inTurn;
  }

  /** What GET_IRQ_INFO is told. @throws VfioUserError `VFIO_VALUE`: no such kind */
  info(kind: number): { flags: number; count: number } {
    if (kind >= NUM_IRQS) throw wrong(`there are no interrupts of kind ${kind}`);
    return { flags: FLAGS[kind]!, count: this.#fn.irqs[kind]! };
  }

  /**
   * Carries out SET_IRQS, in its turn. Owns the fds from now on. What was done before it throws stays done.
   * @throws VfioUserError `VFIO_VALUE`, `VFIO_FDS`, `VFIO_COMMAND`; what the function throws
   */
  async set(values: Values, data: Uint8Array, fds: readonly OwnedFd[]): Promise<void> {
    const left = [...fds];
    try {
      this.#check(values, data, fds.length);
      await this.#carryOut(values, data, left);
    } finally {
      for (const fd of left) fd.close();
    }
  }

  /** The client is gone. */
  close(): void {
    this.#unmasker?.close();
    this.#unmaskFd?.close();
    this.#unmasker = this.#unmaskFd = null;
  }

  #check({ flags, index, start, count }: Values, data: Uint8Array, fds: number): void {
    const there = this.info(index).count;
    const [kind, action] = [flags & DATA, flags & ACTION];
    if ((flags & ~(DATA | ACTION)) !== 0 || !isOne(kind) || !isOne(action)) {
      throw wrong(`flags 0x${flags.toString(16)}`);
    }
    if (start + count > there) throw wrong(`interrupts ${start} to ${start + count} of ${there}`);
    if (count === 0 && (flags !== DISABLE || start !== 0)) throw wrong('no interrupts');
    const octets = kind === IRQ_SET.DATA_BOOL ? count : 0;
    if (data.length !== octets) {
      throw new VfioUserError('VFIO_SIZE', `SET_IRQS: ${data.length} bytes of data, not ${octets}`);
    }
    const given = kind === IRQ_SET.DATA_EVENTFD && fds > 0 ? count : 0;
    if (fds !== given) {
      throw new VfioUserError('VFIO_FDS', `SET_IRQS: ${fds} file descriptors, not ${given}`);
    }
    if (action === IRQ_SET.TRIGGER) return;
    const watched = kind === IRQ_SET.DATA_EVENTFD && (index !== IRQ.INTX || action !== IRQ_SET.UNMASK);
    if (watched || (FLAGS[index]! & IRQ_FLAG.MASKABLE) === 0) {
      const text = `SET_IRQS: flags 0x${flags.toString(16)} for interrupts of kind ${index}`;
      throw new VfioUserError('VFIO_COMMAND', text, { errno: ERRNO.ENOTTY! });
    }
  }

  async #carryOut({ flags, index, start, count }: Values, data: Uint8Array, left: OwnedFd[]): Promise<void> {
    const fn = this.#fn;
    const action = flags & ACTION;
    if ((flags & IRQ_SET.DATA_EVENTFD) !== 0 && action === IRQ_SET.UNMASK) {
      return this.#unmaskOn(left.shift() ?? null);
    }
    if (flags === DISABLE && count === 0) {
      if (index === IRQ.INTX) this.close();
      for (let i = 0; i < fn.irqs[index]!; i++) await fn.connect(index, i, null);
      return;
    }
    for (let i = 0; i < count; i++) {
      if ((flags & IRQ_SET.DATA_BOOL) !== 0 && data[i] === 0) continue;
      if (action !== IRQ_SET.TRIGGER) await fn.mask(index, start + i, action === IRQ_SET.MASK);
      else if ((flags & IRQ_SET.DATA_EVENTFD) === 0) await fn.raise(index, start + i);
      else await fn.connect(index, start + i, left.shift() ?? null);
    }
  }

  /** Unmasks INTx whenever the eventfd is signalled, in place of what was watched; null: never. */
  #unmaskOn(fd: OwnedFd | null): void {
    this.close();
    if (fd === null) return;
    const eventfd = EventFd.adopt(fd);
    let unmasking = false;
    this.#unmaskFd = eventfd;
    this.#unmasker = watchReadable(eventfd.fd, () => {
      eventfd.drain();
      if (unmasking) return;
      unmasking = true;
      this.#inTurn(() => this.#fn.mask(IRQ.INTX, 0, false))
        .catch(() => {}) // nobody waits for an answer
        .finally(() => {
          unmasking = false;
        });
    });
  }
}

function isOne(bits: number): boolean {
  return bits !== 0 && (bits & (bits - 1)) === 0;
}

function wrong(what: string): VfioUserError {
  return new VfioUserError('VFIO_VALUE', `SET_IRQS: ${what}`);
}
