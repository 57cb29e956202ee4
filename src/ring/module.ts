/**
 * Device types from outside: the default export of an ES module, named by its path.
 *
 * ```
 *   --device ./my_ring.js ──► /home/me/my_ring.js      main thread: a Ring for queues to be set up
 *                             the path, by message ──► worker: the same module, loaded there, a Ring for queues to be run
 * ```
 * A path is a name that every thread can load by itself, also while its loop runs: so loading is synchronous, and the type's `name` is the
 * path. The module is the operator's own code, in this process, with all of its rights: it is checked for mistakes, not for malice.
 */
import { accessSync, constants } from 'node:fs';
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import * as L from '../../datapath/layout.js';
import { withMetadata } from './metadata.js';
import type { DeviceType, Ring } from './ring.js';

/** What such a module exports. Its `name` is for people: the same module under another path is another type. */
export interface DeviceModule extends Omit<DeviceType, 'title' | 'dump'> {
  /** Where words of the ring are, for whoever looks at a queue: names and offsets in the context's opaque part. */
  readonly fields?: Readonly<Record<string, number>>;
}

/** A module that can't be loaded, or whose default export is no device type. */
export class DeviceTypeError extends Error {
  override readonly name = 'DeviceTypeError';
  readonly code = 'DEVICE_TYPE';
}

/** Bytes. The name of a memfd, of which the path is a part, has 249. */
const MAX_PATH = 200;
const FEATURES = (1n << 11n) - 1n;

/** What a module has to export: property, what it is to be, in words and as a test. */
const PROPERTIES: readonly (readonly [keyof DeviceModule, string, (value: unknown) => boolean])[] = [
  [
    'name',
    'a word of small letters, digits and _',
    value => typeof value === 'string' && /^[a-z]\w{0,63}$/.test(value),
  ],
  [
    'features',
    'a BigInt of bpfhv feature bits',
    value => typeof value === 'bigint' && (value & ~FEATURES) === 0n,
  ],
  ['maxFrame', 'a number of bytes from 60 to 1518', value => isWhole(value, 60, 1518)],
  [
    'maxBufs',
    'a power of two from 16 on, if there',
    value => value === undefined || (isWhole(value, 16, 2 ** 16) && (value & (value - 1)) === 0),
  ],
  ['metadata', 'true or false, if there', value => value === undefined || typeof value === 'boolean'],
  ['fields', 'offsets, multiples of 4, by name, if there', isFields],
  ['programs', 'the file: URL of a file that can be read', isReadable],
  ['ring', 'a function', value => typeof value === 'function'],
];

const CALLS: readonly (keyof Ring)[] = [
  ...(['contextSize', 'initialise', 'resume', 'pending', 'kicks'] as const),
  ...(['pop', 'complete', 'room', 'push'] as const),
];

const load = createRequire(import.meta.url);
const loaded = new Map<string, DeviceType>();

/** Whether a word names a module, and no built-in type. */
export function isModule(word: string): boolean {
  return word.includes('/') || /\.m?js$/.test(word);
}

/** The device type of the module at that path; once loaded it stays the same. Throws DeviceTypeError. */
export function moduleType(word: string, builtIn: readonly string[]): DeviceType {
  const path = resolve(word);
  const known = loaded.get(path);
  if (known) return known;
  const type = withMetadata(typeOf(path, checked(path, exported(path), builtIn)));
  loaded.set(path, type);
  return type;
}

function exported(path: string): unknown {
  if (Buffer.byteLength(path) > MAX_PATH) throw wrong(path, `the path is longer than ${MAX_PATH} bytes`);
  try {
    return (load(path) as { default?: unknown }).default;
  } catch (error) {
    if ((error as NodeJS.ErrnoException | undefined)?.code === 'ERR_REQUIRE_ASYNC_MODULE')
      throw wrong(path, 'it, or what it imports, awaits something at its top level', error);
    const why = error instanceof Error ? error.message : String(error);
    throw wrong(path, why.split('\n')[0]!, error);
  }
}

function checked(path: string, type: unknown, builtIn: readonly string[]): DeviceModule {
  if (typeof type !== 'object' || type === null) throw wrong(path, 'its default export is no device type');
  for (const [property, what, test] of PROPERTIES) {
    if (!test((type as Record<string, unknown>)[property]))
      throw wrong(path, `its ${property} has to be ${what}`);
  }
  const module = type as DeviceModule;
  if (builtIn.includes(module.name)) throw wrong(path, `its name, ${module.name}, is a built-in type's`);
  return module;
}

/** The type under its path; its rings are looked at when they are made. */
function typeOf(path: string, module: DeviceModule): DeviceType {
  const { features, maxFrame, maxBufs, programs, metadata = false, fields = {} } = module;
  return {
    ...{ name: path, title: module.name, features, maxFrame, metadata, programs },
    ...(maxBufs === undefined ? {} : { maxBufs }),
    ring(datapath) {
      const ring = module.ring(datapath);
      const lacking = CALLS.filter(call => typeof ring?.[call] !== 'function');
      if (lacking.length > 0) throw wrong(path, `what its ring() returns lacks ${lacking.join(', ')}`);
      return ring;
    },
    dump({ words }, queue) {
      const word = (address: number) => words[address >>> 2]!;
      const named = Object.entries(fields).map(
        ([name, offset]) => `${name} ${word(word(queue + L.QUEUE_RING) + offset)}`,
      );
      return `ring    ${named.join('  ')}\ndevice  cons ${word(queue + L.QUEUE_CONS)}`;
    },
  };
}

function isWhole(value: unknown, min: number, max: number): value is number {
  return Number.isInteger(value) && (value as number) >= min && (value as number) <= max;
}

function isFields(value: unknown): boolean {
  if (value === undefined) return true;
  if (typeof value !== 'object' || value === null) return false;
  return Object.values(value).every(offset => isWhole(offset, 0, 2 ** 24) && offset % 4 === 0);
}

function isReadable(url: unknown): boolean {
  if (!(url instanceof URL)) return false;
  try {
    accessSync(url, constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

function wrong(path: string, why: string, cause?: unknown): DeviceTypeError {
  return new DeviceTypeError(`device type ${path}: ${why}`, { cause });
}
