/** The device type vring_packed: the packed ring of VirtIO 1.1, no offloads. The ring itself is datapath/vring-packed.ts, its driver side programs/vring_packed. */
import { CTX_OPAQUE } from '../../datapath/layout.js';
import { dumpVringPacked } from './dump.js';
import type { DeviceType } from './ring.js';

export const vringPacked: DeviceType = {
  name: 'vring_packed',
  features: 0n,
  maxFrame: 1518,
  // An event has 15 bits for an index, and numbers of descriptors are powers of two.
  maxBufs: 2 ** 14,
  programs: new URL('../../../programs/vring_packed/vring_packed.o', import.meta.url),
  ring: ({ calls }) => ({
    contextSize: num => CTX_OPAQUE + calls.vring_packed_size(num),
    initialise: queue => calls.vring_packed_init(queue),
    resume: queue => calls.vring_packed_resume(queue) !== 0,
    pending: queue => calls.vring_packed_pending(queue) >>> 0,
    pop: (queue, batch, budget) => calls.vring_packed_tx_pop(queue, batch, budget),
    complete: (queue, batch, n) => calls.vring_packed_tx_complete(queue, batch, n) !== 0,
    room: (queue, batch, budget) => calls.vring_packed_rx_room(queue, batch, budget),
    push: (queue, batch, n) => calls.vring_packed_rx_push(queue, batch, n) !== 0,
    kicks: (queue, on) => calls.vring_packed_kicks(queue, on) !== 0,
  }),
  dump: dumpVringPacked,
};
