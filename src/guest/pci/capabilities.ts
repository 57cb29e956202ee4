/**
 * Capabilities in the configuration space of a PCI function: a list that starts at byte 0x34.
 *
 * ```
 *   id │ next ─► … │ …                                  next 0: the last one
 *   9  │ next      │ length │ what the vendor likes
 * ```
 */

const STATUS = 0x06;
const HAS_LIST = 0x10;
const POINTER = 0x34;
const FIRST = 0x40;
const VENDOR_SPECIFIC = 9;
/** As many as there is room for. */
const MAX_CAPABILITIES = 48;

/**
 * Where each of them is. Of a configuration space that leads nowhere or in circles, what can be followed counts.
 * @param config the first 256 bytes
 */
export function* capabilities(config: Uint8Array): Generator<{ readonly id: number; readonly at: number }> {
  if ((config[STATUS]! & HAS_LIST) === 0) return;
  let at = config[POINTER]! & ~3;
  for (let n = 0; n < MAX_CAPABILITIES && at >= FIRST; n++) {
    yield { id: config[at]!, at };
    at = config[at + 1]! & ~3;
  }
}

/**
 * What vendor-specific capabilities have behind their lengths.
 * @param config the first 256 bytes
 */
export function* vendorCapabilities(config: Uint8Array): Generator<Uint8Array> {
  for (const { id, at } of capabilities(config)) {
    const end = Math.min(at + config[at + 2]!, config.length);
    if (id === VENDOR_SPECIFIC) yield config.subarray(at + 3, Math.max(end, at + 3));
  }
}

/** What the one with these bytes at its start has behind them; null: there is none. */
export function vendorCapability(config: Uint8Array, signature: string): Uint8Array | null {
  for (const body of vendorCapabilities(config)) {
    const named = Buffer.from(body.subarray(0, signature.length)).toString('latin1') === signature;
    if (named) return body.subarray(signature.length);
  }
  return null;
}
