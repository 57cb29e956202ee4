/** The device types that suites run over: the built-in ones, and one from outside, which gets nothing that those do not get. */
import { fileURLToPath } from 'node:url';
import { deviceTypeNames } from '../../src/ring/registry.js';

/** The example of docs/write-your-own-ring.md, as a user names it. */
export const STAMP_RING = fileURLToPath(
  new URL('../../../examples/stamp-ring/stamp_ring.js', import.meta.url),
);

export const allTypes: readonly string[] = [...deviceTypeNames, STAMP_RING];

/** What a test calls a type: the last part of a path. */
export const titleOf = (type: string): string => type.replace(/^.*\//, '');
