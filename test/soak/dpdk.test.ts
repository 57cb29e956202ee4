/** DPDK's driver on our backend, and our driver on DPDK's, for a minute on every ring path: `npm run test:soak`. */
import { everyPath } from '../link/dpdk-backend.js';
import { everyRing } from '../link/dpdk-vhost.js';
import { SOAK_SECONDS } from './limits.js';

const SECONDS = Math.min(60, SOAK_SECONDS);

everyPath(SECONDS);
everyRing(SECONDS);
