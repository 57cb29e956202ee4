/** The link tests in full size: `npm run test:soak`. */
import { linkTest } from '../link/harness.js';
import { kills } from '../link/kill.js';
import { downAndUp, guestRestarts } from '../link/restart.js';
import { tcpStreams } from '../link/tcp-streams.js';
import { udpFlood } from '../link/udp-flood.js';
import { SOAK_BYTES, SOAK_PACKETS, SOAK_SECONDS, SOAK_TIMES } from './limits.js';

/** A little more than a test gives itself. */
const LIMIT_MS = (SOAK_SECONDS + 300) * 1000;
const deadline = () => performance.now() + SOAK_SECONDS * 1000;

linkTest(
  `${SOAK_PACKETS} datagrams each way arrive whole and in order, 50000 a second or more`,
  {},
  (link, t) => udpFlood(link, t, SOAK_PACKETS, 50_000),
  LIMIT_MS,
);

linkTest(
  `streams of ${SOAK_BYTES} bytes keep their checksum, both ways at once as well`,
  {},
  (link, t) => tcpStreams(link, t, SOAK_BYTES),
  LIMIT_MS,
);

linkTest(
  `the interface goes down and up ${SOAK_TIMES} times under traffic, and nothing leaks`,
  {},
  (link, t) => downAndUp(link, t, SOAK_TIMES, deadline()),
  LIMIT_MS,
);

linkTest(
  `${SOAK_TIMES} guests come and go under traffic, and the backend leaks nothing`,
  {},
  (link, t) => guestRestarts(link, t, SOAK_TIMES, deadline()),
  LIMIT_MS,
);

for (const victim of ['guest', 'serve'] as const) {
  linkTest(
    `kill -9 of ${victim}, ${SOAK_TIMES} times: the other side lives on and the link comes back`,
    {},
    (link, t) => kills(link, t, victim, SOAK_TIMES, deadline()),
    LIMIT_MS,
  );
}
