/**
 * From every contract to every other: ring formats, and for the one that has offloads each set of them. After each change, frames that ask for something go
 * both ways: they arrive whole where that is agreed on, and as the frames that they stand for where it is not.
 */
import assert from 'node:assert/strict';
import * as L from '../../datapath/layout.js';
import { offloadsOf, parseOffloads } from '../../src/ring/features.js';
import { deviceType } from '../../src/ring/registry.js';
import { eventually } from '../compliance/testbed.js';
import { guestTest } from './driver-rig.js';
import { largeFrame, payloadOf, plain, type Shape } from './large-frames.js';
import { type Ask, reassemble, receive } from './segment-model.js';
import { Wire } from './wire.js';

const LONG = process.env.POLYNIC_LONG === 'soak';

interface Terms {
  readonly device: string;
  readonly offload: string;
}

const ALL: readonly Terms[] = [
  { device: 'sring', offload: 'none' },
  { device: 'vring_packed', offload: 'none' },
  ...['none', 'csum', 'tso', 'lro', 'ufo', 'all'].map(offload => ({ device: 'sring_gso', offload })),
];

/** A walk that takes every step from one to another once; on an everyday run the first of them. */
function walk(): Terms[] {
  const left = ALL.map((_, from) => ALL.map((_, to) => to).filter(to => to !== from));
  const path: number[] = [];
  const stack = [0];
  while (stack.length > 0) {
    const next = left[stack.at(-1)!]!.shift();
    if (next === undefined) path.unshift(stack.pop()!);
    else stack.push(next);
  }
  return path.map(i => ALL[i]!).slice(0, LONG ? undefined : EVERYDAY);
}

/** Visits every one of them. */
const EVERYDAY = 20;

/** Frames that ask, and what somebody must have agreed to for each to be left as it is. */
const FRAMES: readonly { readonly what: string; readonly shape: Shape; readonly needs: number }[] = [
  { what: 'TCP', shape: { ...plain, size: 1000 }, needs: L.OFFLOAD_TSO4 },
  { what: 'TCP over IPv6', shape: { ...plain, size: 1000, v6: true }, needs: L.OFFLOAD_TSO6 },
  {
    what: 'a datagram to be fragmented',
    shape: { ...plain, size: 1000, kind: 'fragments' },
    needs: L.OFFLOAD_UFO,
  },
  { what: 'a checksum', shape: { ...plain, payload: 500 }, needs: L.OFFLOAD_CSUM },
];

/** Sends one of them, and looks at what arrives. */
async function passes(
  from: Wire,
  to: Wire,
  { what, shape, needs }: (typeof FRAMES)[number],
  offloads: number,
) {
  const large = largeFrame(shape);
  const ask: Ask = needs === L.OFFLOAD_CSUM ? { ...large.ask, type: 0, gsoSize: 0, hdrLen: 0 } : large.ask;
  from.sendAsking(large.frame, ask);
  const first = await to.receive();
  if ((offloads & needs) !== 0) {
    assert.deepEqual(first.ask, ask, what);
    assert.ok(first.frame.equals(large.frame), what);
    return;
  }
  const header = shape.kind === 'tcp' ? 20 + 4 * shape.tcp : 8;
  const pieces = [first];
  const count =
    needs === L.OFFLOAD_CSUM ? 1 : Math.ceil((shape.payload + (header === 8 ? 8 : 0)) / shape.size);
  while (pieces.length < count) pieces.push(await to.receive());
  for (const piece of pieces) assert.deepEqual([piece.ask.flags, piece.ask.type], [0, 0], what);
  const whole = (frame: Buffer) => receive(frame).transport.subarray(header);
  const payload =
    header === 8
      ? whole(reassemble(pieces.map(({ frame }) => frame)))
      : Buffer.concat(pieces.map(({ frame }) => whole(frame)));
  assert.ok(payload.equals(payloadOf(shape)), what);
}

const steps = walk();

guestTest(
  `${steps.length - 1} changes of ring format and offloads, frames that ask in between`,
  async make => {
    assert.equal(new Set(steps).size, ALL.length, 'every contract is come to');
    const [near, far] = [new Wire('near'), new Wire('far')];
    const guest = await make.guest({ netdev: near.port });
    const backend = await make.backend(far.port, { device: steps[0]!.device });
    const { nic } = backend;
    guest.connect(nic);
    await guest.driver.setInterfaceUp(true);
    await guest.driver.whenRunning();
    for (const [i, { device, offload }] of steps.entries()) {
      const features = parseOffloads(offload)!;
      if (i > 0) {
        await nic.upgrade({ device: deviceType(device)!, features });
        await eventually(() => guest.driver.stats().upgrades === i);
      }
      const where = `${device}, ${offload}, after ${i} changes`;
      assert.deepEqual([nic.device.name, nic.agreed], [device, features], where);
      for (const frame of FRAMES) {
        await passes(
          near,
          far,
          { ...frame, what: `${frame.what} out: ${where}` },
          offloadsOf(features, 'tx'),
        );
        await passes(far, near, { ...frame, what: `${frame.what} in: ${where}` }, offloadsOf(features, 'rx'));
      }
    }
    for (const port of [near.port, far.port]) {
      const { dropped, tooLong, errors } = port.counters();
      assert.deepEqual({ dropped, tooLong, errors }, { dropped: 0, tooLong: 0, errors: 0 });
    }
    assert.deepEqual([...guest.lines('error'), ...guest.lines('warn')], []);
  },
);
