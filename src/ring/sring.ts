/** The device type sring: one buffer per packet, no offloads. The ring itself is datapath/sring.ts, its driver side programs/sring. */
import { CTX_OPAQUE } from '../../datapath/layout.js';
import { dumpSring } from './dump.js';
import type { DeviceType } from './ring.js';

export const sring: DeviceType = {
  name: 'sring',
  features: 0n,
  maxFrame: 1518,
  programs: new URL('../../../programs/sring/sring.o', import.meta.url),
  ring: ({ calls }) => ({
    contextSize: num => CTX_OPAQUE + calls.sring_size(num),
    initialise: (queue, receive) => calls.sring_init(queue, receive),
    resume: queue => calls.sring_resume(queue) !== 0,
    pending: queue => calls.sring_pending(queue) >>> 0,
    pop: (queue, batch, budget) => calls.sring_tx_pop(queue, batch, budget),
    complete: (queue, batch, n) => calls.sring_tx_complete(queue, batch, n) !== 0,
    room: (queue, batch, budget) => calls.sring_rx_room(queue, batch, budget),
    push: (queue, batch, n) => calls.sring_rx_push(queue, batch, n) !== 0,
    kicks: (queue, on) => calls.sring_kicks(queue, on) !== 0,
  }),
  dump: dumpSring,
};
