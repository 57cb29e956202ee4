/**
 * The device side of vring_packed beyond what every ring format has to keep (test/compliance/): its layout, its events, the sizes that it can
 * have, what it takes over at a restart, and guests that break its rules.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import * as L from '../../datapath/layout.js';
import { deviceType } from '../../src/ring/registry.js';
import { ReceiveFlow, TransmitFlow } from '../compliance/actors.js';
import { arena, type Side, Testbed, window } from '../compliance/testbed.js';
import { nicTest } from './nic-rig.js';
import { asksFor, EVENT, INDIRECT, NEXT, stateOffset, WRITE } from './vring-packed-bed.js';

const device = 'vring_packed';
const NUM = 16;
const [HOST, NUM_DESC, DRIVER_EVENT, DEVICE_EVENT, DESC] = [64, 136, 192, 256, 320] as const;

function withBed(num: number, body: (bed: Testbed) => void): void {
  const live = arena.live;
  const bed = new Testbed({ device, num });
  try {
    body(bed);
    bed.checkCanaries();
  } finally {
    bed.close();
  }
  assert.equal(arena.live, live, 'left in the arena');
}

/** The ring of a side. */
const viewOf = ({ context, contextSize }: Side): DataView =>
  new DataView(window.bytes.buffer, context + L.CTX_OPAQUE, contextSize - L.CTX_OPAQUE);

/** Publishes `n` frames and has the device use them. True: it wants an interrupt. */
function pass(flow: TransmitFlow, n: number): boolean {
  assert.equal(flow.publish(n).sent, n);
  const { frames, interrupt } = flow.drain(n);
  assert.equal(frames, n);
  return interrupt;
}

describe('vring_packed, device side', () => {
  it('sets a context up as the format says', () => {
    for (const num of [16, 64, 256]) {
      withBed(num, bed => {
        assert.equal(bed.rx.contextSize, 2096 + 320 + 2 * Math.ceil((16 * num) / 64) * 64);
        for (const side of bed.sides) {
          const expected = new DataView(new ArrayBuffer(side.contextSize - L.CTX_OPAQUE));
          for (const wrap of [6, 7, 68, 69]) expected.setUint8(wrap, 1);
          expected.setUint16(8, 0x80, true);
          expected.setUint16(HOST + 6, 0x8080, true);
          expected.setUint16(HOST + 8, EVENT.DESC, true);
          expected.setBigUint64(128, BigInt(stateOffset(num)), true);
          expected.setUint32(NUM_DESC, num, true);
          for (const event of [DRIVER_EVENT, DEVICE_EVENT]) {
            expected.setUint16(event, 0x8000, true);
            expected.setUint16(event + 2, EVENT.DESC, true);
          }
          for (let i = 0; i < num - 1; i++) expected.setUint16(stateOffset(num) + 16 * i + 12, i + 1, true);
          assert.deepEqual(viewOf(side), expected);
        }
      });
    }
    withBed(256, bed => assert.equal(bed.rx.contextSize, 0x2970));
  });

  it('interrupts exactly when the driver event asks for it', () => {
    withBed(NUM, bed => {
      const flow = new TransmitFlow(bed);
      const view = viewOf(bed.tx);
      let position = 0;
      const check = (event: number, count: number) => {
        view.setUint32(DRIVER_EVENT, event, true);
        const range = {
          index: position % NUM,
          wrap: Math.floor(position / NUM) % 2 === 0 ? 1 : 0,
          count,
          num: NUM,
        };
        assert.equal(
          pass(flow, count),
          asksFor(event, range),
          `${event.toString(16)} ${JSON.stringify(range)}`,
        );
        position += count;
      };
      for (let round = 0; round < 3 * NUM; round++) {
        for (const count of [1, 2, 7, NUM - 1, NUM]) {
          for (const flags of [EVENT.ENABLE, EVENT.DISABLE, 3]) check(flags << 16, count);
          for (let index = 0; index < NUM; index++) {
            for (const wrap of [0, 1]) check(index | (wrap << 15) | (EVENT.DESC << 16), count);
          }
        }
        check(EVENT.DISABLE << 16, 1); // so that the next round starts elsewhere
      }
    });
  });

  it('asks for a kick at the next descriptor, and for none', () => {
    withBed(NUM, bed => {
      const flow = new TransmitFlow(bed);
      const view = viewOf(bed.tx);
      for (let position = 0; position < 4 * NUM; position += 2) {
        assert.equal(bed.ring.kicks(bed.tx.queue.address, true), false);
        const wrap = Math.floor(position / NUM) % 2 === 0 ? 1 : 0;
        assert.equal(
          view.getUint32(DEVICE_EVENT, true),
          (position % NUM) | (wrap << 15) | (EVENT.DESC << 16),
        );
        assert.equal(view.getUint16(HOST + 8, true), EVENT.DESC);
        assert.equal(flow.publish(1).kick, true);
        assert.equal(bed.ring.kicks(bed.tx.queue.address, false), true, 'it is there');
        assert.equal(view.getUint16(DEVICE_EVENT + 2, true), EVENT.DISABLE);
        assert.equal(flow.publish(1).kick, false);
        assert.equal(flow.drain(2).frames, 2);
      }
    });
  });

  it('works in every size, for three laps and across the end of its own counter', () => {
    for (let num = 16; num <= 2 ** 14; num *= 2) {
      withBed(num, bed => {
        const tx = new TransmitFlow(bed);
        const rx = new ReceiveFlow(bed);
        // The device's counter of positions is at a lap's start, shortly before 2^32.
        for (const { queue } of bed.sides)
          window.words[(queue.address + L.QUEUE_CONS) >>> 2] = 2 ** 32 - 2 * num;
        rx.refill();
        while (tx.arrived < 3 * num || rx.arrived < 3 * num) {
          tx.publish(100);
          tx.drain(128);
          rx.fill(100);
          rx.poll(128);
          rx.refill();
        }
        assert.deepEqual([tx.arrived, rx.arrived], [tx.sent, rx.sent]);
        for (const side of bed.sides) assert.equal(side.queue.fault, 0);
      });
    }
  });

  it('goes on after a stop where the guest is, and shows it', () => {
    withBed(NUM, bed => {
      const { calls } = bed.datapath;
      let position = 0;
      for (let round = 0; round < 5 * NUM; round++) {
        const flow = new TransmitFlow(bed);
        flow.publish(7);
        flow.drain(3);
        position += 7;
        assert.equal(calls.driver_reclaim(bed.tx.driver), 7);
        assert.ok(bed.ring.resume(bed.tx.queue.address));
        const view = viewOf(bed.tx);
        const wrap = Math.floor(position / NUM) % 2 === 0 ? 1 : 0;
        assert.deepEqual(
          [HOST, HOST + 2, HOST + 6].map(field => view.getUint16(field, true)),
          [position % NUM, position % NUM, wrap ? 0x8080 : 0],
        );
        assert.deepEqual([view.getUint8(HOST + 4), view.getUint8(HOST + 5)], [wrap, wrap]);
        assert.equal(view.getUint16(4, true), position % NUM);
        assert.equal(bed.ring.pending(bed.tx.queue.address), 0, 'stale descriptors');
      }
    });
  });

  it('does not go on from indices or wrap counters that can not be', () => {
    withBed(NUM, bed => {
      for (const [field, value] of [
        [2, NUM],
        [2, 0xffff],
        [4, NUM],
        [4, 0x8000],
      ] as const) {
        bed.reset();
        new TransmitFlow(bed).publish(5);
        viewOf(bed.tx).setUint16(field, value, true);
        const { address } = bed.tx.queue;
        assert.equal(bed.ring.resume(address), false);
        assert.equal(bed.tx.queue.fault, L.FAULT_INDEX);
        assert.equal(bed.ring.kicks(address, true), false, 'it stands still, whatever is available');
        assert.equal(bed.ring.pending(address), 0);
        assert.equal(bed.ring.pop(address, bed.deviceBatch.address, NUM), 0);
      }
      for (const [field, value] of [
        [6, 2],
        [7, 255],
      ] as const) {
        bed.reset();
        viewOf(bed.tx).setUint8(field, value);
        assert.equal(bed.ring.resume(bed.tx.queue.address), false);
      }
      bed.reset();
      viewOf(bed.tx).setUint16(4, 3, true); // three ahead of what was made available
      assert.equal(bed.ring.resume(bed.tx.queue.address), false);
    });
  });

  it('does not use chains, indirect tables or buffers of the other direction', () => {
    withBed(NUM, bed => {
      const tx = new TransmitFlow(bed);
      const rx = new ReceiveFlow(bed);
      rx.refill();
      const txView = viewOf(bed.tx);
      const rxView = viewOf(bed.rx);
      for (const [i, bits] of [NEXT, INDIRECT, WRITE].entries()) {
        tx.publish(3);
        const at = DESC + 16 * (3 * i + 1) + 14;
        txView.setUint16(at, txView.getUint16(at, true) ^ bits!, true);
        rxView.setUint16(at, rxView.getUint16(at, true) ^ bits!, true);
        const errors = [bed.tx.queue.stats.errors, bed.rx.queue.stats.errors];
        const { address } = bed.tx.queue;
        assert.equal(bed.ring.pop(address, bed.deviceBatch.address, 3), 2);
        bed.ring.complete(address, bed.deviceBatch.address, 2);
        assert.equal(rx.fill(3).frames, 2);
        assert.equal(rx.poll(3), 3, 'the bad one comes back empty');
        assert.deepEqual(
          [bed.tx.queue.stats.errors, bed.rx.queue.stats.errors],
          [errors[0]! + 1, errors[1]! + 1],
        );
        assert.equal(bed.datapath.calls.driver_tx_complete(bed.tx.driver, NUM), 3);
      }
    });
  });

  it('reads nothing back of what it has written', () => {
    withBed(NUM, bed => {
      const tx = new TransmitFlow(bed);
      const view = viewOf(bed.tx);
      for (let round = 0; round < 3 * NUM; round++) {
        tx.publish(5);
        const own = [HOST, 128, DEVICE_EVENT].map(at => [at, at + 16] as const);
        const kept = own.map(
          ([from, to]) => new Uint8Array(view.buffer.slice(view.byteOffset + from, view.byteOffset + to)),
        );
        for (const [from, to] of own) for (let i = from; i < to; i++) view.setUint8(i, 0xff);
        assert.equal(bed.ring.pending(bed.tx.queue.address), 5);
        assert.equal(tx.drain(5).frames, 5);
        for (const [i, [from]] of own.entries()) {
          if (from !== HOST) window.bytes.set(kept[i]!, view.byteOffset + from);
        }
      }
      assert.equal(tx.arrived, tx.sent);
    });
  });

  it('takes no more than the ring holds when the guest makes it available for ever', () => {
    withBed(NUM, bed => {
      const tx = new TransmitFlow(bed);
      tx.publish(NUM);
      // All of them look available in the lap behind, too.
      const view = viewOf(bed.tx);
      const turn = () => {
        for (let i = 0; i < NUM; i++) view.setUint16(DESC + 16 * i + 14, 0x8000, true);
      };
      assert.equal(bed.ring.pop(bed.tx.queue.address, bed.deviceBatch.address, NUM), NUM);
      turn();
      assert.equal(bed.ring.complete(bed.tx.queue.address, bed.deviceBatch.address, NUM), true);
      turn();
      assert.equal(bed.ring.pending(bed.tx.queue.address), NUM);
      assert.equal(bed.ring.pop(bed.tx.queue.address, bed.deviceBatch.address, 128), NUM);
    });
  });
});

nicTest('a number of descriptors that vring_packed can not hold is refused', async start => {
  const rig = await start({ device: deviceType(device)!, limits: { bufs: 2 ** 16 } });
  const parameters = (numRxBufs: number, numTxBufs: number) =>
    rig.nic.setParameters({ numRxQueues: 1, numTxQueues: 1, numRxBufs, numTxBufs });
  await rig.prepare();
  for (const [rx, tx] of [
    [2 ** 15, 16],
    [16, 2 ** 15],
    [2 ** 16, 2 ** 16],
  ] as const) {
    assert.throws(() => parameters(rx, tx), { code: 'NIC_PARAMETERS' });
  }
  await rig.enable();
  rig.publish(5);
  assert.ok(rig.nic.running, 'what was set up before goes on');
  await rig.nic.disable('tx');
  await rig.nic.disable('rx');
  const most = 2096 + 320 + 2 * 16 * 2 ** 14;
  assert.deepEqual(parameters(2 ** 14, 2 ** 14), { rxContextSize: most, txContextSize: most });
});
