/** What a virtio network card says of itself beside its rings (virtio 1.2, 5.1.4): address, link, queue pairs, largest packet. */
import { NET_CONFIG, NET_CONFIG_SIZE, NET_STATUS } from '../../guest/pci/virtio-numbers.js';

export interface NetFacts {
  /** 6 octets. */
  readonly mac: Uint8Array;
  readonly maxPairs: number;
  /** 0: not said. */
  readonly mtu: number;
}

export class NetConfig {
  readonly #facts: NetFacts;
  readonly #mac: Uint8Array;
  #linkUp = true;
  #announce = false;
  #generation = 0;

  constructor(facts: NetFacts) {
    this.#facts = facts;
    this.#mac = facts.mac.slice();
  }

  /** 6 octets: as built, or as the guest has set them. */
  get mac(): Uint8Array {
    return this.#mac;
  }

  set mac(mac: Uint8Array) {
    this.#mac.set(mac);
    this.#generation++;
  }

  get linkUp(): boolean {
    return this.#linkUp;
  }

  set linkUp(up: boolean) {
    this.#linkUp = up;
    this.#generation++;
  }

  /** The guest is asked to tell the network where it is. */
  set announce(asked: boolean) {
    this.#announce = asked;
    this.#generation++;
  }

  /** Another number after each change; 8 bits. */
  get generation(): number {
    return this.#generation & 0xff;
  }

  /** Fills `into` from `offset` on, with 0 behind the end. */
  read(offset: number, into: Uint8Array): void {
    const bytes = new Uint8Array(NET_CONFIG_SIZE);
    const view = new DataView(bytes.buffer);
    bytes.set(this.#mac, NET_CONFIG.MAC);
    const status = (this.#linkUp ? NET_STATUS.LINK_UP : 0) | (this.#announce ? NET_STATUS.ANNOUNCE : 0);
    view.setUint16(NET_CONFIG.STATUS, status, true);
    view.setUint16(NET_CONFIG.MAX_PAIRS, this.#facts.maxPairs, true);
    view.setUint16(NET_CONFIG.MTU, this.#facts.mtu, true);
    into.fill(0);
    into.set(bytes.subarray(offset, offset + into.length));
  }

  /** The address can be written, by guests without a command for it. */
  write(offset: number, bytes: Uint8Array): void {
    const mac = this.#mac.slice();
    for (const [i, byte] of bytes.entries()) if (offset + i < mac.length) mac[offset + i] = byte;
    this.mac = mac;
  }

  /** The guest's driver begins anew: the address is the one that it was built with. */
  reset(): void {
    this.mac = this.#facts.mac;
    this.#announce = false;
  }
}
