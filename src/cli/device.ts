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
