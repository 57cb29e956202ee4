/**
 * Changes of contract while packets come one at a time, so that both sides sleep at every moment that there is: a wake-up that gets lost at one of them
 * leaves a packet lying until somebody looks by himself, which is a second later.
 */
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { deviceType, deviceTypeNames } from '../../src/ring/registry.js';
import { eventually } from '../compliance/testbed.js';
import { guestTest } from './driver-rig.js';
import { Wire } from './wire.js';

const UPGRADES = 120;
/** Who has missed a wake-up looks after 1000 ms; a machine that is busy with other things keeps a packet waiting for less than this. */
const LATEST_MS = 500;
/** Between one packet's arrival and the next one's start, at most. */
const PAUSE_MS = 3;

/** How long this thread, which looks at the clock, was kept from doing so since the last question; a machine's other users may have done that. */
function lateness() {
  let [before, longest] = [performance.now(), 0];
  const timer = setInterval(() => {
    const now = performance.now();
    longest = Math.max(longest, now - before);
    before = now;
  }, 2);
  return {
    take(): number {
      const late = Math.max(longest, performance.now() - before);
      longest = 0;
      return late;
    },
    end: () => clearInterval(timer),
  };
}

guestTest(`${UPGRADES} upgrades, a packet at a time both ways: each arrives at once`, async make => {
  const [near, far] = [new Wire('near'), new Wire('far')];
  const guest = await make.guest({ netdev: near.port });
  const backend = await make.backend(far.port);
  guest.connect(backend.nic);
  await guest.driver.setInterfaceUp(true);
  await guest.driver.whenRunning();
  let upgrades = 0;

  const flow = async (from: Wire, to: Wire): Promise<number> => {
    const late = lateness();
    let number = 0;
    for (; upgrades < UPGRADES; number++) {
      late.take();
      const sent = performance.now();
      from.send(number);
      assert.equal(await to.next(), number);
      const took = performance.now() - sent;
      assert.ok(took < LATEST_MS + late.take(), `packet ${number}: ${took} ms, after upgrade ${upgrades}`);
      await sleep(Math.random() * PAUSE_MS);
    }
    late.end();
    return number;
  };
  const change = async () => {
    for (; upgrades < UPGRADES; upgrades++) {
      const names = deviceTypeNames;
      await backend.nic.upgrade({ device: deviceType(names[(upgrades + 1) % names.length]!)! });
    }
  };
  const [out, back] = await Promise.all([flow(near, far), flow(far, near), change()]);
  assert.ok(out > UPGRADES && back > UPGRADES, `${out} packets out, ${back} back`);
  await eventually(() => guest.driver.stats().upgrades === UPGRADES);
  assert.deepEqual([guest.lines('error'), guest.lines('warn')], [[], []]);
});
