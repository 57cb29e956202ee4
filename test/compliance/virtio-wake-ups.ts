/**
 * Both sides of a virtqueue fall asleep and wake each other, with steps in random order; the device may also move in the middle of the driver's steps,
 * between what it stores and what it loads after that. When both sleep, nobody has been told, and there is work left, a wake-up was lost.
 */
import { randomFrom } from './testbed.js';
import type { Random, VirtioBed } from './virtio-bed.js';
import { styleOf, VirtioRx, VirtioTx } from './virtio-flows.js';

class Sleeper {
  awake = true;
  told = false;
  naps = 0;
  readonly step: () => void;

  constructor(step: (own: Sleeper) => void) {
    this.step = () => step(this);
  }

  get ready(): boolean {
    return this.awake || this.told;
  }

  move(): void {
    this.awake = true;
    this.told = false;
    this.step();
  }

  sleep(): void {
    this.awake = false;
    this.naps++;
  }
}

/** Runs until `done`. Returns how often somebody slept. */
function race(
  bed: VirtioBed,
  random: Random,
  { guest, device, done, what }: { guest: Sleeper; device: Sleeper; done: () => boolean; what: () => string },
): number {
  bed.between = () => {
    bed.between = () => {};
    while (device.ready && random(3) > 0) device.move();
    bed.between = between;
  };
  const { between } = bed;
  for (let steps = 0; !done(); steps++) {
    const ready = [guest, device].filter(side => side.ready);
    if (ready.length === 0) throw new Error(`both sides sleep and work is left: ${what()}`);
    if (steps > 20_000) throw new Error(`no progress: ${what()}`);
    ready[random(ready.length)]!.move();
  }
  bed.between = () => {};
  return guest.naps + device.naps;
}

/** The guest transmits `total` frames. */
export function transmitRace(bed: VirtioBed, seed: number, total: number): number {
  const random = randomFrom(seed);
  const flow = new VirtioTx(bed, { pieces: 3, longest: 200 });
  const { queue, driver } = bed.tx;
  const guest = new Sleeper(own => {
    flow.reap();
    const { sent, kick } = flow.publish(Math.min(1 + random(bed.num), total - flow.sent), random);
    if (kick) device.told = true;
    if (flow.sent === total) own.sleep();
    else if (sent === 0 && !driver.arm(1 + random(Math.max(1, driver.posted)))) own.sleep();
  });
  const device = new Sleeper(own => {
    if (random(2) === 0) bed.ring.kicks(queue.address, false);
    const { frames, interrupt } = flow.drain(1 + random(bed.num), random(bed.num + 1));
    if (interrupt) guest.told = guest.told || flow.sent < total;
    if (frames > 0 && random(4) > 0) return;
    if (bed.ring.kicks(queue.address, true)) bed.ring.kicks(queue.address, false);
    else own.sleep();
  });
  const what = () => `tx, seed ${seed}: ${flow.arrived} of ${flow.sent} sent of ${total} have arrived`;
  return race(bed, random, { guest, device, done: () => flow.arrived === total, what });
}

/** The device delivers `total` frames, some now, some later. */
export function receiveRace(bed: VirtioBed, seed: number, total: number): number {
  const random = randomFrom(seed);
  const flow = new VirtioRx(bed, { ...styleOf(bed.features), pieces: 3 });
  const { queue, driver } = bed.rx;
  flow.refill(bed.num, random);
  const guest = new Sleeper(own => {
    if (flow.poll() > 0) {
      if (flow.refill(bed.num, random)) device.told = true;
    } else if (!driver.arm(1)) own.sleep();
    else driver.arm(0);
  });
  const device = new Sleeper(own => {
    if (random(2) === 0) bed.ring.kicks(queue.address, false);
    const want = Math.min(random(bed.num + 1), total - flow.sent);
    const { room, interrupt } = flow.fill(1 + random(bed.num), want);
    if (interrupt) guest.told = true;
    if (flow.sent === total) own.sleep();
    else if (room > 0) return;
    else if (bed.ring.kicks(queue.address, true)) bed.ring.kicks(queue.address, false);
    else own.sleep();
  });
  const what = () => `rx, seed ${seed}: ${flow.arrived} of ${flow.sent} sent of ${total} have arrived`;
  return race(bed, random, { guest, device, done: () => flow.arrived === total, what });
}
