/** `--device`: a built-in ring format by its name, or one's own by the path of its module. */
import { type DeviceType, DeviceTypeError, deviceType, deviceTypeNames } from '../ring/index.js';
import { sealedTypeNames } from '../ring/registry.js';
import { UsageError } from './host.js';

/** The built-in ones. */
export const deviceNames: readonly string[] = [...deviceTypeNames, ...sealedTypeNames];
const NAMES = deviceNames.join(', ');

/** For `--help`. */
export const deviceHelp = `the ring format: ${NAMES}, or the path of a module of your own`;

/** The device type that the user's word names, for commander. Throws UsageError. */
export function device(word: string): DeviceType {
  try {
    const type = deviceType(word);
    if (type) return type;
  } catch (error) {
    if (!(error instanceof DeviceTypeError)) throw error;
    throw new UsageError(error.message);
  }
  throw new UsageError(`there is no device type "${word}": write ${NAMES} or the path of a module`);
}

/** What a PCI device can be beside a bpfhv one: virtio-net, for the driver that every Linux has. */
const CARDS = ['virtio-net', 'virtio-net-transitional'] as const;
export type VirtioCard = (typeof CARDS)[number];
export const cardNames = CARDS.join(', ');

/** For commander: a ring format, or another card altogether. Throws UsageError. */
export function deviceOrCard(word: string): DeviceType | VirtioCard {
  return CARDS.find(card => card === word) ?? device(word);
}
