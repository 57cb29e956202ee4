/** Changes of contract in full size: `npm run test:soak`. */
import { test } from 'node:test';
import { upgradeEverySecond } from '../link/demo-run.js';
import { cannot } from '../link/harness.js';
import { SOAK_SECONDS } from './limits.js';

/** A minute of load, and ping before it. */
const SECONDS = Math.min(68, SOAK_SECONDS);

test(`an upgrade every second for ${SECONDS} seconds, under load: nothing lost, nothing sent again`, async t => {
  const why = cannot();
  if (why) return t.skip(why);
  await upgradeEverySecond(t, SECONDS);
});
