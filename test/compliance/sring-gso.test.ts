import { CTX_OPAQUE } from '../../datapath/layout.js';
import { ringCompliance } from './suite.js';
import { window } from './testbed.js';

const [PROD, CONS, CLEAR] = [0, 128, 384];

ringCompliance({
  device: 'sring_gso',
  seams: [16, 2 ** 32, 2 ** 31],
  longestBuffer: 0xffff,
  seek(_bed, { context }, index) {
    for (const field of [PROD, CONS, CLEAR]) window.words[(context + CTX_OPAQUE + field) >>> 2] = index;
  },
  spoil(bed, { context }) {
    window.words[(context + CTX_OPAQUE + PROD) >>> 2] = bed.num + 1;
  },
});
