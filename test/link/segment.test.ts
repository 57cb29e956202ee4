/**
 * Software segmentation between two real kernels: one sends large frames, as it does for a moment after a contract without offloads has replaced one with,
 * and the port of its TAP has agreed to none.
 *
 * ```
 *   kernel ══ TAP ══ port.get: cuts ──► batch of 1518-byte buffers ──► port.put ══ TAP ══ kernel
 * ```
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import * as L from '../../datapath/layout.js';
import { attachPort, openPort } from '../../src/port/registry.js';
import type { TapHandle } from '../../src/port/tap.js';
import { Batch } from '../../src/ring/batch.js';
import { arena, Testbed, window } from '../compliance/testbed.js';
import { cannot, type End, kernelStats, makeEnd, setUp } from './harness.js';
import { tcpTransfer } from './traffic.js';

const BYTES = 10e6;

test('large frames that nobody agreed on arrive cut, with content and checksums right', async t => {
  const why = cannot();
  if (why) return t.skip(why);
  // Any receive ring serves as a source of buffers.
  const bed = new Testbed({ device: 'sring', num: 128 });
  t.after(() => bed.close());
  const { calls } = bed.datapath;
  const ends = [
    makeEnd('big0', '10.9.1.1', '02:00:00:00:01:01'),
    makeEnd('cut0', '10.9.1.2', '02:00:00:00:01:02'),
  ] as const;
  const handles = ends.map(({ interface: name, path, mac }) =>
    openPort(`tap:${name},netns=${path},mac=${mac}`, { window, arena }),
  ) as [TapHandle, TapHandle];
  t.after(() => {
    for (const handle of handles) handle.close();
    for (const { netns } of ends) netns.close();
  });
  const [big, plain] = ends as readonly [End, End];
  handles[0].tap.setOffload(L.OFFLOAD_CSUM | L.OFFLOAD_TSO4); // the kernel may; what the port has agreed to stays nothing
  setUp(big, plain);
  setUp(plain, big);
  const ports = handles.map(({ lanes }) => attachPort(lanes[0]!, { window, calls }));
  const batch = Batch.allocate(window, arena);
  t.after(() => arena.free(batch.address));

  let over = false;
  const pump = async () => {
    while (!over) {
      for (const [i, port] of ports.entries()) {
        calls.driver_reset(bed.tx.driver, bed.num);
        calls.driver_tx_room(bed.tx.driver, batch.address, 100);
        const filled = port.get(batch);
        window.words[(batch.address + L.BATCH_COUNT) >>> 2] = filled;
        trim(batch, filled);
        assert.equal(ports[1 - i]!.put(batch), filled);
      }
      await nextTurn();
    }
  };
  const pumping = pump();
  const { sent, got } = await tcpTransfer(big, plain, { seed: 31, bytes: BYTES }).finally(() => {
    over = true;
  });
  await pumping;

  assert.equal(got.sha256, sent.sha256);
  for (const handle of handles) {
    const { dropped, tooLong, errors } = handle.counters();
    assert.deepEqual({ dropped, tooLong, errors }, { dropped: 0, tooLong: 0, errors: 0 });
  }
  const { txPackets, txBytes } = kernelStats(big);
  assert.ok(txBytes / txPackets > 4000, `the kernel sent ${txBytes / txPackets} bytes a frame`);
  const { rxPackets, rxBytes } = kernelStats(plain);
  assert.ok(rxBytes / rxPackets <= 1514, `${rxBytes / rxPackets} bytes a frame arrived`);
});

/** Cuts the buffer of each frame to what it holds, as a ring does. */
function trim(batch: Batch, count: number): void {
  for (let i = 0; i < count; i++) {
    window.longs[(batch.iovAddress(i) - window.base + L.IOVEC_SIZE + L.IOVEC_LENGTH) / 8] = BigInt(
      batch.length(i),
    );
  }
}
