/** vhost-user backends that end every two or three seconds for five minutes, under traffic: `npm run test:soak`. */
import { backendEnds, backendKills, keepHostTap } from '../link/backend-restarts.js';
import { type LinkOptions, linkTest } from '../link/harness.js';
import { SOAK_SECONDS } from './limits.js';

const SECONDS = Math.min(300, SOAK_SECONDS);
const LIMIT_MS = (SECONDS + 120) * 1000;
const plan = () => ({
  times: Number.POSITIVE_INFINITY,
  deadline: performance.now() + SECONDS * 1000,
  everyMs: 2500,
});

for (const [format, words, listener] of [
  ['split', [], 'guest'],
  ['packed', ['--packed', '--queues', '2'], 'serve'],
] as const) {
  const options: LinkOptions = { protocol: 'vhost-user', guest: words, listener, before: keepHostTap };
  linkTest(
    `SIGTERM to the backend for ${SECONDS} s, ${format}, the ${listener} listens: no frame is lost or sent twice`,
    options,
    (link, t) => backendEnds(link, t, plan()),
    LIMIT_MS,
  );

  linkTest(
    `kill -9 of the backend for ${SECONDS} s, ${format}, the ${listener} listens: a batch may be sent twice, each time`,
    options,
    (link, t) => backendKills(link, t, plan()),
    LIMIT_MS,
  );
}
