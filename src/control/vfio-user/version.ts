/**
 * The capabilities that both sides state when they agree on a version: JSON behind the version's numbers.
 *
 *     {"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576,"max_dma_maps":65535,"pgsizes":4096}}NUL
 *
 * QEMU's buffer for the reply is as long as its request, 198 bytes; it takes no more than 16 fds, no more than 65535 maps and no pages below 4096.
 */
import { VfioUserError } from './errors.js';

export interface Capabilities {
  /** File descriptors that the sender can receive in one message. */
  readonly maxMsgFds: number;
  /** Bytes that one message may read or write. */
  readonly maxDataXferSize: number;
  /** DMA maps at a time. */
  readonly maxDmaMaps: number;
  /** Page sizes of DMA maps, or'ed together. */
  readonly pgsizes: number;
  /** REGION_WRITE_MULTI is understood. */
  readonly writeMultiple: boolean;
}

/** Both sides speak 0.0. */
export const VERSION = { MAJOR: 0, MINOR: 0 } as const;

/** What holds where a peer says nothing. */
export const DEFAULT_CAPABILITIES: Capabilities = {
  maxMsgFds: 1,
  maxDataXferSize: 1 << 20,
  maxDmaMaps: 65535,
  pgsizes: 4096,
  writeMultiple: false,
};

/** How many bytes of data messages may have, when somebody wishes for so many. */
export function transferSize(wanted = DEFAULT_CAPABILITIES.maxDataXferSize): number {
  return Math.min(wanted, DEFAULT_CAPABILITIES.maxDataXferSize);
}

/** Longer ones are not looked at. Bytes. */
const MAX_TEXT = 4096;

const NAMES: readonly (readonly [key: keyof Capabilities, name: string])[] = [
  ['maxMsgFds', 'max_msg_fds'],
  ['maxDataXferSize', 'max_data_xfer_size'],
  ['maxDmaMaps', 'max_dma_maps'],
  ['pgsizes', 'pgsizes'],
  ['writeMultiple', 'write_multiple'],
];

/** What is false is not mentioned: QEMU takes any mention of REGION_WRITE_MULTI for a yes to more than that. */
export function encodeCapabilities(capabilities: Capabilities): Uint8Array {
  const stated = NAMES.map(([key, name]) => [name, capabilities[key]]).filter(([, value]) => value !== false);
  return new TextEncoder().encode(`${JSON.stringify({ capabilities: Object.fromEntries(stated) })}\0`);
}

/** What a peer stated; defaults fill the rest, what is unknown is skipped. Throws VfioUserError VFIO_VERSION. */
export function decodeCapabilities(text: Uint8Array): Capabilities {
  const stated = parse(text);
  const known = NAMES.filter(([, name]) => stated[name] !== undefined).map(([key, name]) => {
    const value = stated[name];
    const right =
      typeof value === typeof DEFAULT_CAPABILITIES[key] &&
      (typeof value === 'boolean' || (Number.isSafeInteger(value) && (value as number) >= 0));
    if (!right) throw wrong(`${name} can't be ${JSON.stringify(value).slice(0, 40)}`);
    return [key, value];
  });
  const capabilities = { ...DEFAULT_CAPABILITIES, ...Object.fromEntries(known) };
  if (capabilities.maxDataXferSize === 0) throw wrong('no message may have data');
  return capabilities;
}

function parse(text: Uint8Array): Record<string, unknown> {
  if (text.length === 0) return {};
  if (text.length > MAX_TEXT) throw wrong(`${text.length} bytes of capabilities, at most ${MAX_TEXT}`);
  if (text.at(-1) !== 0) throw wrong('capabilities that do not end with a NUL');
  if (text.length === 1) return {};
  let data: unknown;
  try {
    data = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(text.subarray(0, -1)));
  } catch (cause) {
    throw wrong('capabilities that are no JSON', cause);
  }
  if (!isObject(data)) throw wrong('capabilities that are no object');
  const { capabilities = {} } = data;
  if (!isObject(capabilities)) throw wrong('capabilities that are no object');
  return capabilities;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function wrong(what: string, cause?: unknown): VfioUserError {
  return new VfioUserError('VFIO_VERSION', `VERSION: ${what}`, { cause });
}
