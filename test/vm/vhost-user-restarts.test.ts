/** The backend of a Linux guest ends and is started anew under traffic; for five minutes in test/soak. */
import { LONG, vmTest } from './kit/needs.js';
import { backendRestarts, RESTART_CASES } from './kit/restarts.js';

const SECONDS = 7;
const EVERY_MS = 1500;

for (const [qemu, wish] of LONG ? RESTART_CASES : RESTART_CASES.slice(3)) {
  const name = `backends come and go, ${wish.packed ? 'packed' : 'split'}, ${wish.listener} listens`;
  vmTest(name, qemu, t => backendRestarts(t, qemu, wish, { seconds: SECONDS, everyMs: EVERY_MS }));
}
