/** Where a virtio network card on PCI has the structures that its driver needs: found in its configuration space. */
import { REGION } from '../../linux/vfio-numbers.js';
import { type PciAccess, PciError } from './access.js';
import { vendorCapabilities } from './capabilities.js';
import { CAPABILITY, CFG_TYPE, NET_CONFIG, NETWORK_CARD, VIRTIO_VENDOR } from './virtio-numbers.js';

const CONFIG_SIZE = 256;
const MAX_BAR = 5;
/** Bytes that must be there: of the common configuration, all but what came with later versions. */
const COMMON_NEEDED = 56;
const DEVICE_NEEDED = NET_CONFIG.MAX_PAIRS + 2;
const NOTIFY_NEEDED = 2;

/** Bytes of a BAR. */
export interface Place {
  readonly bar: number;
  readonly offset: number;
  readonly length: number;
}

export interface VirtioPlaces {
  readonly common: Place;
  readonly device: Place;
  readonly notify: Place;
  /** Bytes from one notification to the next, of as many as a queue says. */
  readonly notifyMultiplier: number;
}

/** Rejects with PciError: PCI_DEVICE (it is no virtio network card, or lacks something that one of the standard has), PCI_GONE. */
export async function findPlaces(access: PciAccess): Promise<VirtioPlaces> {
  const config = await access.readWords(REGION.CONFIG, 0, CONFIG_SIZE);
  const [vendor, device] = [half(config, 0), half(config, 2)];
  const known = vendor === VIRTIO_VENDOR && Object.values<number>(NETWORK_CARD).includes(device);
  if (!known) throw notVirtio(`it is ${hex(vendor)}:${hex(device)}`);
  const bodies = [...vendorCapabilities(config)];
  // Of several the first one that can be used: a device has them in the order in which it likes them.
  const find = (type: number, what: string, needed: number) => {
    for (const body of bodies) {
      const place = placeOf(body, type);
      if (place && place.length >= needed && place.offset + place.length <= access.regionSize(place.bar))
        return { place, body };
    }
    throw notVirtio(`its ${what} is nowhere`);
  };
  const notify = find(CFG_TYPE.NOTIFY, 'area for notifications', NOTIFY_NEEDED);
  return {
    common: find(CFG_TYPE.COMMON, 'common configuration', COMMON_NEEDED).place,
    device: find(CFG_TYPE.DEVICE, 'own configuration', DEVICE_NEEDED).place,
    notify: notify.place,
    notifyMultiplier: word(notify.body, CAPABILITY.MULTIPLIER),
  };
}

export function notVirtio(why: string): PciError {
  return new PciError('PCI_DEVICE', `not a virtio network card that can be driven: ${why}`);
}

/** `body` begins with the capability's type. */
function placeOf(body: Uint8Array, type: number): Place | null {
  const bar = body[CAPABILITY.BAR - CAPABILITY.TYPE] ?? MAX_BAR + 1;
  if (body[0] !== type || bar > MAX_BAR) return null;
  return { bar, offset: word(body, CAPABILITY.OFFSET), length: word(body, CAPABILITY.LENGTH) };
}

/** 0 where the capability has ended already. */
function word(body: Uint8Array, at: number): number {
  const bytes = Buffer.alloc(4);
  bytes.set(body.subarray(at - CAPABILITY.TYPE, at - CAPABILITY.TYPE + 4));
  return bytes.readUInt32LE();
}

function half(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8);
}

function hex(number: number): string {
  return number.toString(16).padStart(4, '0');
}
