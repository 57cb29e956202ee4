/** Down, up, and restarts in a bounded form; a hundred of each are in test/soak. */
import { linkTest } from './harness.js';
import { downAndUp, guestRestarts } from './restart.js';

linkTest('the interface goes down and up 20 times under traffic, and nothing leaks', {}, (link, t) =>
  downAndUp(link, t, 20),
);

linkTest('5 guests come and go under traffic, and the backend leaks nothing', {}, (link, t) =>
  guestRestarts(link, t, 5),
);
