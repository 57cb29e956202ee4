import { CTX_OPAQUE } from '../../datapath/layout.js';
import { ringCompliance } from './suite.js';
import { window } from './testbed.js';

const [NEXT_USED, DESCRIPTORS] = [4, 320];

ringCompliance({
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
});
