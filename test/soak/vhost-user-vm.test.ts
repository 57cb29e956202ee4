/** The backend of a Linux guest ends every two or three seconds for five minutes, half of them in good order: `npm run test:soak`. */
import { vmTest } from '../vm/kit/needs.js';
import { backendRestarts, RESTART_CASES } from '../vm/kit/restarts.js';
import { SOAK_SECONDS } from './limits.js';

const SECONDS = Math.min(300, SOAK_SECONDS) / 2;

for (const [qemu, wish] of RESTART_CASES) {
  const name = `backends come and go for ${2 * SECONDS} s, ${wish.packed ? 'packed' : 'split'}, ${wish.listener} listens`;
  vmTest(name, qemu, t => backendRestarts(t, qemu, wish, { seconds: SECONDS, everyMs: 2500 }));
}
