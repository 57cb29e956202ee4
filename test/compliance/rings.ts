/** The shipped ring formats as the compliance suite wants them: where their indices are, and how to break them. */
import { CTX_OPAQUE } from '../../datapath/layout.js';
import type { RingUnderTest } from './suite.js';
import { type Side, type Testbed, window } from './testbed.js';

/** Indices that run free, of sring and sring_gso. */
const FREE_RUNNING = {
  seams: [16, 2 ** 32, 2 ** 31],
  seek(_bed: Testbed, { context }: Side, index: number) {
    const [PROD, CONS, CLEAR] = [0, 128, 384];
    for (const field of [PROD, CONS, CLEAR]) window.words[(context + CTX_OPAQUE + field) >>> 2] = index;
  },
  spoil(bed: Testbed, { context }: Side) {
    window.words[(context + CTX_OPAQUE) >>> 2] = bed.num + 1;
  },
};

const [NEXT_USED, DESCRIPTORS] = [4, 320];

export const RINGS = {
  sring: { device: 'sring', ...FREE_RUNNING },
  sring_gso: { device: 'sring_gso', ...FREE_RUNNING, longestBuffer: 0xffff },
  vring_packed: {
    device: 'vring_packed',
    // The end of the lap whose wrap counter is 1, and of that whose wrap counter is 0.
    seams: [16, 32],
    seek({ num }, { context }, position) {
      const ring = new DataView(window.bytes.buffer, context + CTX_OPAQUE);
      const index = position % num;
      const wrap = Math.floor(position / num) % 2 === 0 ? 1 : 0;
      ring.setUint16(2, index, true);
      ring.setUint16(NEXT_USED, index, true);
      ring.setUint8(6, wrap);
      ring.setUint8(7, wrap);
      ring.setUint16(8, wrap ? 0x80 : 0x8000, true);
      // As if all descriptors before it had been used: in this lap up to the index, in the lap before beyond it.
      for (let i = 0; i < num; i++) {
        ring.setUint16(DESCRIPTORS + 16 * i + 14, (i < index ? wrap : 1 - wrap) ? 0x8080 : 0, true);
      }
    },
    spoil({ num }, { context }) {
      new DataView(window.bytes.buffer, context + CTX_OPAQUE).setUint16(NEXT_USED, num, true);
    },
  },
} as const satisfies Readonly<Record<string, RingUnderTest>>;
