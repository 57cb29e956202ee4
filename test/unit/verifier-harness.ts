/** The helpers and the memory that the verifier's tests share. */
import type { HelperSpec } from '../../src/ebpf/helpers.js';

export const EXTRA = { base: 0xc000, size: 24 };
export const FENCE = -5;

/** One of each kind of argument; see test/data/verifier/README.md. */
export const HELPERS: readonly HelperSpec[] = [
  { id: 1, name: 'use', args: [{ kind: 'context' }] },
  { id: 2, name: 'put', args: [{ kind: 'memory', size: 16, access: 'write' }] },
  { id: 3, name: 'get', args: [{ kind: 'memory', size: 16, access: 'read' }] },
  {
    id: 4,
    name: 'fill',
    args: [{ kind: 'number' }, { kind: 'memory', size: { arg: 2 }, access: 'write' }, { kind: 'number' }],
  },
  { id: 5, name: 'mix', args: [{ kind: 'context' }, { kind: 'number' }] },
  { id: FENCE, name: 'fence', args: [], inline: 'fence' },
];
