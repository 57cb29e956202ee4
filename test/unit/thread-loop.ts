/** The worker of thread.test.ts: counts its turns in the window, at the address that it is given, and has work between `busy` and `idle`. */
import { type Loop, type LoopStart, runLoop } from '../../src/nic/thread.js';

let busy = false;

runLoop<number, string, number>(
  ({ window, data }: LoopStart<number>): Loop<string, number> => ({
    pollEntries: 1,
    pauseMicroseconds: 0,
    spin: false,
    turn() {
      window.words[data >>> 2]!++;
      return busy ? 1 : 0;
    },
    relax() {},
    prepareSleep(poller, first) {
      poller.count = first;
      return true;
    },
    afterSleep() {},
    handle(command) {
      if (command === 'busy' || command === 'idle') busy = command === 'busy';
      if (command === 'throw') throw new Error('told to');
      if (command === 'exit') process.exit(3);
      return command.length;
    },
  }),
);
