/**
 * Both sides fall asleep and wake each other, with steps in random order, and each in the middle of the other's: at the barrier of a program, at the
 * device's accesses to its ring (those that the testbed tells of). When both sleep, nobody has been told, and there is work left, a wake-up was lost.
 *
 * ```
 *   guest ── publishes ── kick? ──► device, asleep after kicks(on) found nothing
 *   guest, asleep after arm(n) found too little ◄── interrupt? ── device completes
 * ```
 */
import { ReceiveFlow, TransmitFlow } from './actors.js';
import { randomFrom, type Testbed } from './testbed.js';

/** One side: awake, or asleep until it is told. */
class Sleeper {
  /** It is in the middle of a step. */
  busy = false;
  awake = true;
  told = false;
  naps = 0;

  get ready(): boolean {
    return this.awake || this.told;
  }

  sleep(): void {
    this.awake = false;
    this.naps++;
  }
}

/** Runs until `done`; `step`s move one side each. Returns how often somebody slept. */
function race(
  bed: Testbed,
  random: (below: number) => number,
  { guest, device, done, what }: { guest: Actor; device: Actor; done: () => boolean; what: () => string },
): number {
  const move = ({ side, wake, step }: Actor) => {
    side.busy = true;
    if (!side.awake) {
      side.awake = true;
      wake();
    }
    side.told = false;
    step();
    side.busy = false;
  };
  const interrupt = (other: Actor, odds: number) => {
    while (!other.side.busy && other.side.ready && random(odds) === 0) move(other);
  };
  // One side is in the middle of a step: the other may do anything now.
  bed.onBarrier = () => interrupt(device, 2);
  bed.onAccess = () => interrupt(guest, 8);
  for (let steps = 0; !done(); steps++) {
    const ready = [guest, device].filter(({ side }) => side.ready);
    if (ready.length === 0) throw new Error(`both sides sleep and work is left: ${what()}`);
    if (steps > 20_000) throw new Error(`no progress: ${what()}`);
    move(ready[random(ready.length)]!);
  }
  bed.onBarrier = () => {};
  bed.onAccess = () => {};
  return guest.side.naps + device.side.naps;
}

interface Actor {
  readonly side: Sleeper;
  wake(): void;
  step(): void;
}

/** The guest transmits `total` frames. */
export function transmitRace(bed: Testbed, seed: number, total: number): number {
  const random = randomFrom(seed);
  const flow = new TransmitFlow(bed);
  const { calls } = bed.datapath;
  const { queue, driver } = bed.tx;
  const [guest, device] = [new Sleeper(), new Sleeper()];
  return race(bed, random, {
    guest: {
      side: guest,
      wake() {},
      step() {
        const { sent, kick } = flow.publish(Math.min(1 + random(bed.num), total - flow.sent));
        if (kick) device.told = true;
        if (flow.sent === total) guest.sleep();
        else if (sent === 0 && calls.driver_arm(driver, 1 + random(bed.num)) <= 0) guest.sleep();
      },
    },
    device: {
      side: device,
      wake() {
        bed.ring.kicks(queue.address, false);
      },
      step() {
        const { frames, interrupt } = flow.drain(1 + random(bed.num), random(bed.num + 1));
        if (interrupt) guest.told = guest.told || flow.sent < total;
        if (frames > 0 && random(4) > 0) return;
        if (bed.ring.kicks(queue.address, true)) bed.ring.kicks(queue.address, false);
        else device.sleep();
      },
    },
    done: () => flow.arrived === total,
    what: () => `tx, seed ${seed}: ${flow.arrived} of ${flow.sent} sent of ${total} have arrived`,
  });
}

/** The device delivers `total` frames, some now, some later. */
export function receiveRace(bed: Testbed, seed: number, total: number): number {
  const random = randomFrom(seed);
  const flow = new ReceiveFlow(bed);
  const { calls } = bed.datapath;
  const { queue, driver } = bed.rx;
  const [guest, device] = [new Sleeper(), new Sleeper()];
  flow.refill();
  return race(bed, random, {
    guest: {
      side: guest,
      wake() {
        calls.driver_arm(driver, 0);
      },
      step() {
        if (flow.poll(1 + random(bed.num)) > 0) {
          if (flow.refill()) device.told = true;
        } else if (calls.driver_arm(driver, 1) <= 0) guest.sleep();
        else calls.driver_arm(driver, 0);
      },
    },
    device: {
      side: device,
      wake() {
        bed.ring.kicks(queue.address, false);
      },
      step() {
        const { room, interrupt } = flow.fill(
          1 + random(bed.num),
          Math.min(random(bed.num + 1), total - flow.sent),
        );
        if (interrupt) guest.told = true;
        if (flow.sent === total) device.sleep();
        else if (room > 0) return;
        else if (bed.ring.kicks(queue.address, true)) bed.ring.kicks(queue.address, false);
        else device.sleep();
      },
    },
    done: () => flow.arrived === total,
    what: () => `rx, seed ${seed}: ${flow.arrived} of ${flow.sent} sent of ${total} have arrived`,
  });
}
