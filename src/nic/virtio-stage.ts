/**
 * What the rings of a virtio NIC stand on: memory, translations, what was negotiated, the dirty log. Nothing here knows rings; whoever changes something
 * takes them from the workers first, and moves them after.
 */
import type { RegionTable } from '../memory/guest-memory.js';
import { VIRTIO_FEATURE } from '../ring/virtio/features.js';
import type { DirtyBitmap } from './dirty-log.js';
import { Iotlb } from './iotlb.js';
import type { AskTranslation } from './vhost-control.js';
import type { VhostMemory } from './vhost-memory.js';
import type { Ground, LogGround } from './vring.js';

export const DEFAULT_MTU = 1500;
/** Ethernet's header and a VLAN tag. */
const FRAME_OVERHEAD = 18;

export class Stage {
  readonly memory: VhostMemory;
  readonly iotlb = new Iotlb();
  /** Feature bits that the guest has accepted. */
  features = 0n;
  mtu = DEFAULT_MTU;
  log: DirtyBitmap | null = null;
  /** Who can be asked for translations. */
  ask: AskTranslation | null = null;

  constructor(memory: VhostMemory) {
    this.memory = memory;
  }

  /** Addresses are I/O virtual ones. */
  get translates(): boolean {
    return (this.features & VIRTIO_FEATURE.ACCESS_PLATFORM) !== 0n;
  }

  /** Not all of the memory is in the window. */
  get partial(): boolean {
    return this.memory.table !== null && !this.memory.table.inWindow;
  }

  /** By which descriptors are looked up; null: there is no memory. */
  get table(): RegionTable | null {
    return this.translates ? this.iotlb.table : this.memory.table;
  }

  /** What places a ring; null: there is no memory. */
  get ground(): Ground | null {
    const { table, features, mtu, translates, memory } = this;
    if (!table) return null;
    return {
      ...{ table, features, maxFrame: mtu + FRAME_OVERHEAD },
      find: translates ? iova => iova : (address, length) => memory.guestAddress(address, length),
    };
  }

  /** How what a ring writes is marked; null: it is not. */
  get logGround(): LogGround | null {
    const { log, features, memory, iotlb, translates } = this;
    if (!log || !memory.table || (features & VIRTIO_FEATURE.LOG_ALL) === 0n) return null;
    const where = { bitmap: log.address, size: log.size, table: memory.table };
    if (!translates) {
      const find: LogGround['find'] = (address, length) => memory.guestAddress(address, length);
      return { ...where, find, findUsed: address => address };
    }
    const find: LogGround['find'] = (iova, length) => iotlb.guestAddress(iova, length, memory);
    return { ...where, find, findUsed: find };
  }

  /** As at first, with the memory that there is. */
  forget(): void {
    this.log?.close();
    this.log = null;
    this.iotlb.clear();
    this.features = 0n;
  }

  /** As at first. */
  clear(): void {
    this.forget();
    this.ask = null;
    this.mtu = DEFAULT_MTU;
    this.memory.clear();
  }
}
