import { CTX_OPAQUE } from '../../datapath/layout.js';
import { ringCompliance } from './suite.js';
import { window } from './testbed.js';
import { STAMP_RING } from './types.js';

const [PROD, CONS, CLEAR] = [0, 128, 384];

ringCompliance({
  device: STAMP_RING,
  seams: [16, 2 ** 32, 2 ** 31],
  seek(_bed, { context }, index) {
    for (const field of [PROD, CONS, CLEAR]) window.words[(context + CTX_OPAQUE + field) >>> 2] = index;
  },
  spoil(bed, { context }) {
    window.words[(context + CTX_OPAQUE + PROD) >>> 2] = bed.num + 1;
  },
});
