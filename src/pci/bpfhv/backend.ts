/**
 * Who has the queues that the registers speak of: a NIC of this process (`nic-backend.ts`), or a backend behind messages
 * (`src/control/bpfhv-proxy/device.ts`). What it can't do, or refuses, it throws.
 */
import type { Direction } from '../../nic/control.js';
import type { Offer } from './offer.js';

/** What a backend says of the contract that it has announced. `later`: it tells when nothing runs. `nothing`: it has announced none. */
export type Preview = Offer | 'later' | 'nothing';

export interface RegisterBackend {
  /** It can be asked, as far as is known. */
  readonly open: boolean;
  /** What it has announced; asked while the present contract may run, which goes on. */
  preview(): Promise<Preview>;
  /** What it offers, from one that told `later`. Nothing runs; features and contexts are forgotten. */
  offer(): Promise<Offer>;
  setFeatures(accepted: bigint): Promise<void>;
  /** Receive queues come first. Address 0n takes the context away. */
  setQueueContext(queue: number, guestPhysicalAddress: bigint): Promise<void>;
  enable(direction: Direction): Promise<void>;
  disable(direction: Direction): Promise<void>;
  /** Both directions in one go, where that saves time. */
  readonly both?: ((action: 'enable' | 'disable') => Promise<void>) | undefined;
  /** The driver can't take what was announced, or can't go on with what it has just changed to. */
  decline(): Promise<void>;
  /** The driver has taken what was announced, before it starts. Backends without it find out when it starts. */
  take?(): Promise<void>;
}
