/** The device type sring_gso: packets of several buffers, checksum and segmentation offloads. The ring itself is datapath/sring-gso.ts, its driver side programs/sring_gso. */
import { CTX_OPAQUE } from '../../datapath/layout.js';
import { dumpSring } from './dump.js';
import { FEATURE, maskOf } from './features.js';
import type { DeviceType } from './ring.js';

export const sringGso: DeviceType = {
  name: 'sring_gso',
  features: maskOf(
    ...[FEATURE.SG, FEATURE.TX_CSUM, FEATURE.RX_CSUM, FEATURE.TSOV4, FEATURE.TCPV4_LRO],
    ...[FEATURE.TSOV6, FEATURE.TCPV6_LRO, FEATURE.UFO, FEATURE.UDP_LRO],
  ),
  maxFrame: 1518,
  programs: new URL('../../../programs/sring_gso/sring_gso.o', import.meta.url),
  ring: ({ calls }) => ({
    contextSize: num => CTX_OPAQUE + calls.sring_gso_size(num),
    initialise: (queue, receive) => calls.sring_gso_init(queue, receive),
    resume: queue => calls.sring_gso_resume(queue) !== 0,
    pending: queue => calls.sring_gso_pending(queue) >>> 0,
    pop: (queue, batch, budget) => calls.sring_gso_tx_pop(queue, batch, budget),
    complete: (queue, batch, n) => calls.sring_gso_tx_complete(queue, batch, n) !== 0,
    room: (queue, batch, budget) => calls.sring_gso_rx_room(queue, batch, budget),
    push: (queue, batch, n) => calls.sring_gso_rx_push(queue, batch, n) !== 0,
    kicks: (queue, on) => calls.sring_gso_kicks(queue, on) !== 0,
  }),
  dump: dumpSring,
};
