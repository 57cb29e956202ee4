/** UDP through the cable, in a bounded form; the full million is in test/soak. */
import { linkTest } from './harness.js';
import { udpFlood } from './udp-flood.js';

linkTest('datagrams of random sizes arrive whole and in order, both ways', {}, (link, t) =>
  udpFlood(link, t, 100_000, 50_000),
);
