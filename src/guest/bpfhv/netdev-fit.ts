/**
 * The guest operating system's network device, fitted to the contract: what it may ask of us, the lanes that are read, what packets grow by, the cable.
 *
 * It is told what is new and no more: the kernel has one lock for all interfaces, which others may hold for long. For the same reason a change of
 * contract fits it before packets have to wait, to what suits both, and again when they flow.
 */
import type { PortHandle } from '../../port/port.js';
import { offloadsOf } from '../../ring/features.js';
import type { Contract } from './contract.js';

/** Of a contract, what the network device is to know. */
type Fitted = Pick<Contract, 'features' | 'numTxQueues' | 'overhead'>;

export class NetdevFit {
  readonly #netdev: PortHandle;
  readonly #onOverhead: (bytes: number) => void;
  #fitted: Fitted | null = null;
  #overhead = 0;
  #carrier: boolean | null = null;

  /** `onOverhead`: told how many bytes packets grow by, before the first that do. */
  constructor(netdev: PortHandle, onOverhead: (bytes: number) => void = () => {}) {
    this.#netdev = netdev;
    this.#onOverhead = onOverhead;
  }

  fit(contract: Fitted): void {
    const { features, numTxQueues, overhead = 0 } = contract;
    const before = this.#fitted;
    this.#fitted = { features, numTxQueues, overhead };
    this.#setOverhead(overhead);
    const offloads = offloadsOf(features, 'tx');
    if (before === null || offloadsOf(before.features, 'tx') !== offloads)
      this.#netdev.setOffloads?.(offloads);
    if (before?.numTxQueues !== numTxQueues) this.#netdev.useLanes?.(numTxQueues);
  }

  /** To what suits the contract that there is and the next one. */
  fitBoth(next: Fitted): void {
    const now = this.#fitted ?? next;
    this.fit({
      features: now.features & next.features,
      numTxQueues: Math.min(now.numTxQueues, next.numTxQueues),
      overhead: Math.max(this.#overhead, next.overhead ?? 0),
    });
  }

  /** There is no contract any more. */
  release(): void {
    this.#setOverhead(0);
  }

  /** Plugs the cable in or out. */
  setCarrier(up: boolean): void {
    if (up !== this.#carrier) this.#netdev.setCarrier?.(up);
    this.#carrier = up;
  }

  #setOverhead(bytes: number): void {
    if (bytes !== this.#overhead) this.#onOverhead(bytes);
    this.#overhead = bytes;
  }
}
