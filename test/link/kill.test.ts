/** kill -9 of either side, whoever listens. */
import { linkTest } from './harness.js';
import { kills } from './kill.js';

const TIMES = 3;

for (const victim of ['guest', 'serve'] as const) {
  linkTest(
    `kill -9 of ${victim}, ${TIMES} times: the other side lives on and the link comes back`,
    {},
    (link, t) => kills(link, t, victim, TIMES),
  );
}

for (const victim of ['guest', 'serve'] as const) {
  linkTest(`the same with the backend listening: ${victim} is killed`, { listener: 'serve' }, (link, t) =>
    kills(link, t, victim, 1),
  );
}
