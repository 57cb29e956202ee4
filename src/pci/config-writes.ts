/**
 * What a guest's write to configuration space has a function do.
 *
 * ```
 *   write ──► ConfigSpace ──► the guest asks for a reset: reset
 *                         └─► else: interrupts as they are switched now
 * ```
 */
import type { ConfigSpace } from './config-space.js';
import type { Interrupts } from './interrupts.js';

export interface ConfiguredFunction {
  readonly config: ConfigSpace;
  readonly interrupts: Interrupts;
  reset(): Promise<void>;
  /** Told of a reset that failed, which is no error of the write's: the guest finds out by the device's own rules. */
  warn(message: string): void;
}

/** Returns whether that was a reset. */
export async function writeConfig(
  { config, interrupts, reset, warn }: ConfiguredFunction,
  offset: number,
  bytes: Uint8Array,
): Promise<boolean> {
  if (!config.write(offset, bytes)) {
    await interrupts.followConfig();
    return false;
  }
  try {
    await reset();
  } catch (error) {
    warn(`the function can not be reset: ${(error as Error).message}`);
  }
  return true;
}
