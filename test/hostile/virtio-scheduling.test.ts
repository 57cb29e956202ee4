/**
 * Virtio NICs whose guests misuse their turn: doorbells without end, queues full of nonsense beside honest ones, frames to themselves, and to each other
 * while neither takes any.
 */
import assert from 'node:assert/strict';
import { eventually } from '../../src/linux/testing.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { qemu11 } from '../unit/vhost-user-scripts.js';
import { type VirtioRig, virtioTest, window } from '../unit/virtio-rig.js';

const LONG = process.env.POLYNIC_LONG === 'hostile';
const FORMATS = [
  ['split', F.VERSION_1 | F.EVENT_IDX | F.INDIRECT_DESC],
  ['packed', F.VERSION_1 | F.EVENT_IDX | F.INDIRECT_DESC | F.RING_PACKED],
] as const;

async function run(rig: VirtioRig, pairs = 1): Promise<void> {
  const { connect, reset, start } = qemu11(rig.place, pairs);
  await rig.say(connect, reset, start);
  assert.deepEqual(rig.peer.refusals, []);
}

/** Bytes of a ring's area, as the guest has them. */
function area(rig: VirtioRig, ring: number, of: 'descriptor' | 'driver' | 'device'): DataView {
  const gpa = rig.drivers[ring]!.areas[of];
  const start = rig.ram.toGuest(0);
  return new DataView(window.bytes.buffer, Number(gpa - start));
}

for (const [format, accept] of FORMATS) {
  virtioTest(
    `${format}: doorbells without end, and with nothing behind them, hold nobody up`,
    async start => {
      const rig = await start({ accept, portSpec: 'source' });
      await run(rig);
      rig.refill();
      let received = 0;
      let rings = 0;
      const enough = LONG ? 200_000 : 5_000;
      await eventually(() => {
        for (let i = 0; i < 1000; i++, rings++) rig.kicks[i % 2]!.signal();
        received += rig.poll();
        return received > enough && rings > 10 * enough;
      }, 60_000);
      const before = rig.packets(1);
      const n = rig.publish(30, { kick: false }); // one of those bells was for it
      rig.kicks[1]!.signal();
      await eventually(() => rig.packets(1) === before + n);
      assert.equal(rig.guest().received.outOfOrder, 0);
      const { kicks } = rig.nic.stats().queues[1]!;
      assert.ok(kicks <= rings, `${kicks} kicks of ${rings}`);
    },
  );

  virtioTest(
    `${format}: a queue that is always full of nonsense leaves its neighbours their share`,
    async start => {
      // Two pairs on one worker and one lane: the second one's transmit queue is the hostile one.
      const rig = await start({ accept, portSpec: 'source', pairs: 2, num: 64, workers: 1 });
      await run(rig, 2);
      rig.refill();
      const hostile = {
        descriptor: area(rig, 3, 'descriptor'),
        driver: area(rig, 3, 'driver'),
        device: area(rig, 3, 'device'),
      };
      const num = 64;
      let at = 0; // packed: the position that the guest has got to
      const fill = (): void => {
        for (let i = 0; i < num; i++) {
          if (format === 'split') {
            hostile.descriptor.setBigUint64(16 * i, 0xdead_0000_0000_0000n, true);
            hostile.descriptor.setUint32(16 * i + 8, 100, true);
            hostile.descriptor.setUint16(16 * i + 12, 0, true);
            hostile.driver.setUint16(4 + 2 * i, i, true);
            continue;
          }
          const slot = at % num;
          const flags = hostile.descriptor.getUint16(16 * slot + 14, true) & 0x8080;
          const [available, used] = at < num ? [0x80, 0x8080] : [0x8000, 0];
          const before = at < num ? 0 : 0x8080; // as it was used a lap ago
          if (flags !== before && flags !== used) break;
          hostile.descriptor.setBigUint64(16 * slot, 0xdead_0000_0000_0000n, true);
          hostile.descriptor.setUint32(16 * slot + 8, 100, true);
          hostile.descriptor.setUint16(16 * slot + 14, available, true);
          at = (at + 1) % (2 * num);
        }
        if (format === 'split') hostile.driver.setUint16(2, hostile.device.getUint16(2, true) + num, true);
        rig.kicks[3]!.signal();
      };
      const errors = () => rig.nic.stats().queues[3]!.errors;
      const enough = LONG ? 200_000 : 10_000;
      let [received, sent] = [0, 0];
      await eventually(() => {
        for (let i = 0; i < 50; i++) {
          fill();
          received += rig.poll();
          sent += rig.publish(16);
        }
        return errors() > enough && received > enough / 20 && rig.packets(1) > enough / 20;
      }, 60_000);
      await eventually(() => rig.packets(1) === sent);
      assert.equal(rig.packets(3), 0, 'nothing of it has reached the port');
      assert.equal(rig.guest().received.outOfOrder, 0);
      for (const index of [0, 1])
        assert.equal(rig.nic.stats().queues.find(q => q.index === index)!.errors, 0);
      assert.doesNotMatch(rig.nic.dump(), /fault (?!none)/);
    },
  );
}

virtioTest('a guest that sends to itself gets nothing of it, and holds up nobody', async start => {
  const self = await start({ portSpec: 'switch:self' });
  const other = await start({ portSpec: 'switch:self' });
  await run(self);
  await run(other);
  self.refill();
  other.refill();
  // Both addresses are learned; then one sends to its own.
  for (const [rig, from] of [
    [self, 1],
    [other, 2],
  ] as const)
    rig.publish(1, { from, to: 3 });
  await eventually(() => self.packets(1) === 1 && other.packets(1) === 1);
  const before = self.packets(0);
  let sent = 1;
  while (sent < 2000) {
    sent += self.publish(64, { from: 1, to: 1 });
    await eventually(() => self.packets(1) === sent);
  }
  assert.equal(self.packets(0), before, 'its own frames do not come back');
  const n = other.publish(20, { from: 2, to: 1 });
  await eventually(() => self.packets(0) === before + n);
});

virtioTest(
  'two guests full of frames for each other, and without room for any: both go on when there is',
  async start => {
    const pair = [
      await start({ portSpec: 'switch:full' }),
      await start({ portSpec: 'switch:full' }),
    ] as const;
    for (const rig of pair) await run(rig);
    const publish = (i: 0 | 1) => pair[i].publish(64, { from: i + 1, to: 2 - i });
    for (let round = 0; round < (LONG ? 20 : 3); round++) {
      // No room at either: the switch holds what it can, and what it can't is lost. Nobody waits for the other for ever.
      const sent = [pair[0].packets(1), pair[1].packets(1)];
      for (let i = 0; i < 150; i++) {
        sent[0]! += publish(0);
        sent[1]! += publish(1);
        await eventually(() => pair.every((rig, j) => rig.packets(1) === sent[j]));
      }
      const before = pair.map(rig => rig.packets(0));
      for (const rig of pair) rig.refill();
      await eventually(() => {
        const polled = pair[0].poll() + pair[1].poll();
        return polled === 0 && pair.every((rig, j) => rig.packets(0) > before[j]!);
      });
      // What comes now arrives.
      for (const [i, rig] of pair.entries()) {
        const past = rig.packets(0);
        const n = publish(i === 0 ? 1 : 0);
        await eventually(() => {
          rig.poll();
          return rig.packets(0) >= past + n;
        });
      }
      for (const rig of pair) {
        // The buffers are taken away again: the guest begins anew.
        await rig.peer.ask('GET_VRING_BASE', { index: 0, num: 0 });
        await rig.peer.ask('GET_VRING_BASE', { index: 1, num: 0 });
        rig.reset();
        await rig.say(qemu11(rig.place).start.filter(({ name }) => name !== 'ADD_MEM_REG'));
      }
    }
  },
);
