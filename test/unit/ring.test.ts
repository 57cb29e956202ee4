/** Batches, the source and the sink in the datapath, and the words that name ports and device types. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { openFds } from '../../src/linux/fd.js';
import { readFlow } from '../../src/port/flow.js';
import { openPort, portUsage } from '../../src/port/registry.js';
import { deviceType, deviceTypeNames } from '../../src/ring/registry.js';
import { arena, payload, Testbed, window } from '../compliance/testbed.js';

test('a batch has room for 128 frames, however many descriptors wait', () => {
  const bed = new Testbed({ device: 'sring', num: 512 });
  const { calls } = bed.datapath;
  const flow = arena.allocate(L.PORT_SIZE);
  let published = 0;
  while (published < 512) {
    calls.driver_tx_room(bed.tx.driver, bed.guestBatch.address, 512);
    assert.equal(bed.guestBatch.count, 128, 'of the guest');
    calls.source_fill(flow, bed.guestBatch.address, 128, 64);
    assert.ok(calls.driver_tx_publish(bed.tx.driver, bed.guestBatch.address, 128) >= 0);
    published += 128;
  }
  const { address } = bed.tx.queue;
  for (let done = 0; done < 512; done += 128) {
    assert.equal(bed.ring.pop(address, bed.deviceBatch.address, 512), 128, 'of the device');
    bed.ring.complete(address, bed.deviceBatch.address, 128);
  }
  arena.free(flow);
  bed.close();
});

test('the kernel gets header, buffer and spill of a receive frame, one behind the other', () => {
  const bed = new Testbed({ device: 'sring', num: 16 });
  const { deviceBatch, rx, datapath, ring } = bed;
  datapath.calls.driver_rx_refill(rx.driver);
  assert.equal(ring.room(rx.queue.address, deviceBatch.address, 3), 3);
  const spills = new Set<bigint>();
  for (let i = 0; i < 3; i++) {
    assert.equal(deviceBatch.iovs(i), 2);
    assert.equal(deviceBatch.room(i), 1518);
    const iov = (deviceBatch.iovAddress(i) - window.base) / 8;
    const [header, headerLength, base, length, spill, spillLength] = window.longs.subarray(iov, iov + 6);
    assert.equal(headerLength, 12n);
    assert.ok(
      window.bytes
        .subarray(Number(header) - window.base)
        .subarray(0, 12)
        .every(byte => byte === 0),
    );
    assert.deepEqual([Number(base) - window.base, length], [payload(deviceBatch, i), 1518n]);
    assert.equal(spillLength, BigInt(L.SPILL_SIZE));
    spills.add(spill!);
  }
  assert.equal(spills.size, 1, 'one for all');
  bed.close();
});

test('a sink tells frames that are missing, doubled or late from those in order', () => {
  const bed = new Testbed({ device: 'sring', num: 16 });
  const { calls } = bed.datapath;
  const [source, sink] = [arena.allocate(L.PORT_SIZE), arena.allocate(L.PORT_SIZE)];
  const number = (i: number) => (payload(bed.guestBatch, i) + 16) / 8;
  const batchOf = (numbers: readonly number[]) => {
    bed.datapath.calls.driver_reset(bed.tx.driver, 16);
    calls.driver_tx_room(bed.tx.driver, bed.guestBatch.address, numbers.length);
    assert.equal(calls.source_fill(source, bed.guestBatch.address, numbers.length, 60), numbers.length);
    for (const [i, n] of numbers.entries()) window.longs[number(i)] = BigInt(n);
    assert.equal(calls.sink_drain(sink, bed.guestBatch.address), numbers.length);
    return readFlow(window, sink).outOfOrder;
  };
  assert.equal(batchOf([0, 1, 2, 3]), 0);
  assert.equal(batchOf([4, 5, 5, 6]), 1, 'doubled');
  assert.equal(batchOf([7, 9, 10]), 2, 'missing');
  assert.equal(batchOf([12, 11, 13]), 5, 'swapped: three that are not the next');
  assert.equal(readFlow(window, sink).sequence, 14);
  assert.equal(readFlow(window, source).sequence, 14);
  for (const state of [source, sink]) arena.free(state);
  bed.close();
});

test('ports are opened by their words, and refused with words', () => {
  const host = { window, arena };
  const before = { live: arena.live, fds: openFds() };
  for (const spec of ['source', 'source:len=24', 'source:len=1518', 'sink', 'sink:']) {
    const port = openPort(spec, host);
    const zero = { received: 0, sent: 0, dropped: 0, tooLong: 0, errors: 0 };
    assert.deepEqual({ ...port.counters(), ...zero }, port.counters(), spec);
    port.close();
  }
  for (const [spec, message] of [
    ['', /no port of kind ""/],
    ['sauce', /no port of kind "sauce": write one of .*source/],
    ['Source', /no port of kind "Source"/],
    ['source:len=23', /len must be 24 to \d+, not "23"/],
    ['source:len=1e9', /len must be/],
    ['source:len=', /len must be/],
    ['source:len=60,len=61', /"len=61" does not belong there/],
    ['source:60', /"60" does not belong there: write source/],
    ['sink:len=60', /"len=60" does not belong there/],
    ['tap', /is no interface name/],
    ['tap:', /is no interface name/],
    ['tap:a-name-that-is-too-long', /is no interface name/],
    ['tap:no/slash', /is no interface name/],
    ['tap:t0,speed=10', /"speed=10" does not belong there/],
  ] as const) {
    assert.throws(() => openPort(spec, host), { code: 'PORT_SPEC', message }, spec);
  }
  assert.ok(portUsage.some(usage => usage.startsWith('tap:IFNAME')));
  assert.deepEqual({ live: arena.live, fds: openFds() }, before);
});

test('every device type is found by its name, has programs and sane sizes', () => {
  assert.ok(deviceTypeNames.includes('sring'));
  assert.equal(deviceType('nothing'), undefined);
  for (const name of deviceTypeNames) {
    const bed = new Testbed({ device: name, num: 256 });
    const size = bed.ring.contextSize(256);
    assert.equal(bed.type.name, name);
    assert.ok(size > L.CTX_OPAQUE && size <= 2 ** 24);
    assert.ok(bed.ring.contextSize(512) > size);
    bed.close();
  }
});

test('contexts are as large as those of recorded peers', () => {
  const recorded = { sring: 0x2230, sring_gso: 0x2a30, vring_packed: 0x2970 };
  for (const [name, size] of Object.entries(recorded)) {
    if (!deviceTypeNames.includes(name)) continue;
    const bed = new Testbed({ device: name, num: 16 });
    assert.equal(bed.ring.contextSize(256), size, name);
    bed.close();
  }
});
