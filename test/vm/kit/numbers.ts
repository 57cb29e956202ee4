/**
 * Numbered datagrams from a guest to the host's end of a cable and back, for as long as one likes:
 *
 * ```
 *   guest   numbers-guest.js ── n, noise ──►  host   looks, takes note, sends the same back
 *                            ◄── n, noise ──
 * ```
 * Each end knows what should come, byte for byte, and says what was missing, with the times at which that must have been.
 */
import { createSocket, type Socket } from 'node:dgram';
import { openUdp } from '../../../src/linux/socket.js';
import { type Cable, HOST_IP } from '../../../src/vm/cable.js';
import type { Vm } from '../../../src/vm/vm.js';
import { Content } from '../../link/content.js';
import { BUFFER, Ledger, SEED, type Tally } from './ledger.js';
import type { GuestReport } from './numbers-guest.js';

const PROGRAM = '/polynic/dist/test/vm/kit/numbers-guest.js';
const STOP = '/tmp/numbers-stop';
/** Every 10 ms. */
const BURST = 3;
const ANYWHERE = '0.0.0.0';

/** A time, or a stretch of it, performance.now(). */
export interface Stretch {
  readonly from: number;
  readonly to: number;
}

export interface Report extends Tally {
  /** When each of those that never came was lost. */
  readonly lost: readonly Stretch[];
}

export class Numbers {
  readonly #socket: Socket;
  readonly #guest: Promise<string>;
  readonly #vm: Vm;
  readonly #ledger: Ledger;
  readonly #listeners = new Set<() => void>();

  private constructor(vm: Vm, socket: Socket, ledger: Ledger, guest: Promise<string>) {
    this.#vm = vm;
    this.#socket = socket;
    this.#ledger = ledger;
    this.#guest = guest;
    this.#guest.catch(() => {}); // whoever waits for a datagram, or for the end, hears of it
    socket.on('message', () => {
      for (const listener of this.#listeners) listener();
    });
  }

  /** Begins; the guest needs the image `node`, and `limitMs` for all of it. */
  static start(vm: Vm, { netns }: Cable, limitMs: number): Numbers {
    const own = openUdp(ANYWHERE, { netns, nonblocking: true }).setBuffers({ receive: BUFFER });
    own.bind({ ip: ANYWHERE, port: 0 });
    const { port } = own.localEndpoint();
    const socket = createSocket('udp4');
    socket.bind({ fd: own.owner.release() });
    const content = new Content(SEED);
    const ledger = new Ledger();
    socket.on('message', (bytes, { address, port }) => {
      ledger.note(content.readDatagram(bytes));
      socket.send(bytes, port, address, () => {}); // the interface may be gone
    });
    const guest = vm.run(
      `rm -f ${STOP}; echo ${BUFFER} >/proc/sys/net/core/rmem_max; node ${PROGRAM} ${HOST_IP} ${port} ${BURST} ${STOP}`,
      limitMs,
    );
    return new Numbers(vm, socket, ledger, guest);
  }

  /** Of those that came to the host, such as had come before. */
  get repeated(): number {
    return this.#ledger.repeated;
  }

  /** Resolves when `n` more have come to the host than now; rejects when the guest's end fails. */
  async more(n: number): Promise<void> {
    const target = this.#ledger.packets + n;
    let look = (): void => {};
    const reached = new Promise<void>(resolve => {
      look = () => this.#ledger.packets >= target && resolve();
      this.#listeners.add(look);
    });
    await Promise.race([reached, this.#guest]).finally(() => this.#listeners.delete(look));
  }

  /** Ends it. */
  async stop(): Promise<{ toHost: Report; toGuest: Report }> {
    await this.#vm.run(`touch ${STOP}`);
    const { tally, gaps } = JSON.parse(await this.#guest) as GuestReport;
    const { arrived } = this.#ledger;
    const toHost = this.#ledger.gaps.map(([first, last]) => ({
      from: arrived[first - 1] ?? 0,
      to: arrived[last + 1]!,
    }));
    // What never came to the host has not gone back either.
    const toGuest = gaps.flatMap(([first, last]) =>
      arrived
        .slice(first, last + 1)
        .filter(at => at !== undefined)
        .map(at => ({ from: at, to: at })),
    );
    return { toHost: { ...this.#ledger.tally, lost: toHost }, toGuest: { ...tally, lost: toGuest } };
  }

  close(): void {
    this.#socket.removeAllListeners('message');
    this.#socket.close();
  }
}
