/** Single frames, put on one end's interface and taken from the other's by packet sockets: what comes is what was sent, and all counters agree. */
import assert from 'node:assert/strict';
import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { total } from '../../src/cli/stats.js';
import { EAGAIN, LinuxError } from '../../src/linux/errors.js';
import { changeLink } from '../../src/linux/link.js';
import { openPacket, type Socket } from '../../src/linux/socket.js';
import { Content } from './content.js';
import { type End, kernelStats, linkTest } from './harness.js';
import type { Program } from './program.js';

const FRAMES = 2000;
const SHORTEST = 14;
const LONGEST = 1514;
const BROADCAST = Uint8Array.of(0xff, 0xff, 0xff, 0xff, 0xff, 0xff);
const MULTICAST = Uint8Array.of(0x01, 0x00, 0x5e, 0x12, 0x34, 0x56);
/** Nobody's address: a cable carries it all the same. */
const STRANGER = Uint8Array.of(0x02, 0, 0, 0, 0, 0x77);
const WAIT_MS = 60_000;

linkTest(
  `${FRAMES} frames of ${SHORTEST} to ${LONGEST} random bytes each way come out as they went in`,
  {},
  async link => {
    const { guestEnd, hostEnd } = link;
    const content = new Content(41);
    for (const [from, to] of [
      [guestEnd, hostEnd],
      [hostEnd, guestEnd],
    ] as const) {
      const length = (n: number) => edgeSize(n) ?? content.size(n, SHORTEST, LONGEST);
      const destinations = [macOf(to), BROADCAST, MULTICAST, STRANGER];
      const frames = Array.from({ length: FRAMES }, (_, n) =>
        content.frame(n, length(n), destinations[n % destinations.length]!, macOf(from)),
      );
      exchange(from, to, frames);
    }
  },
);

linkTest('the counters of both kernels and both processes agree with what was sent', {}, async link => {
  const { guestEnd, hostEnd } = link;
  const content = new Content(42);
  for (const [from, to] of [
    [guestEnd, hostEnd],
    [hostEnd, guestEnd],
  ] as const) {
    const before = [kernelStats(from), kernelStats(to)] as const;
    const direction = from === guestEnd ? 'tx' : 'rx';
    const processes = () => Promise.all([link.guest, link.serve].map(side => moved(side, direction)));
    const movedBefore = await processes();
    const frames = Array.from({ length: 500 }, (_, n) =>
      content.frame(n, content.size(n, SHORTEST, LONGEST), macOf(to), macOf(from)),
    );
    exchange(from, to, frames);
    const [sent, got] = [kernelStats(from), kernelStats(to)];
    const bytes = frames.reduce((sum, frame) => sum + frame.length, 0);
    assert.equal(sent.txPackets - before[0].txPackets, 500);
    assert.equal(sent.txBytes - before[0].txBytes, bytes);
    assert.equal(got.rxPackets - before[1].rxPackets, 500);
    assert.equal(got.rxBytes - before[1].rxBytes, bytes);
    // And what both processes say that their queues have moved, in packets and bytes.
    for (const [i, after] of (await processes()).entries()) {
      assert.equal(after.packets - movedBefore[i]!.packets, 500);
      assert.equal(after.bytes - movedBefore[i]!.bytes, bytes);
      assert.deepEqual([after.errors, after.dropped], [0, 0]);
    }
    for (const stats of [sent, got]) {
      assert.deepEqual([stats.rxErrors, stats.txErrors, stats.rxDropped, stats.txDropped], [0, 0, 0, 0]);
    }
  }
});

linkTest('a VLAN tag makes a frame of 1518 bytes, which passes', {}, async link => {
  const { guestEnd, hostEnd } = link;
  const content = new Content(43);
  const plain = content.frame(1, LONGEST, macOf(hostEnd), macOf(guestEnd));
  const tagged = Buffer.concat([plain.subarray(0, 12), Buffer.from([0x81, 0, 0, 7]), plain.subarray(12)]);
  assert.equal(tagged.length, 1518);
  const before = kernelStats(hostEnd);
  using sender = openPacket(guestEnd.interface, { netns: guestEnd.netns });
  using receiver = openPacket(hostEnd.interface, { netns: hostEnd.netns }).setTimeouts(WAIT_MS);
  send(sender, tagged);
  // The receiving kernel takes the tag off before a packet socket sees the frame; its counter has seen it whole.
  assert.deepEqual(receive(receiver), plain);
  assert.equal(kernelStats(hostEnd).rxBytes - before.rxBytes, 1518);
});

linkTest('a frame that is too long for the NIC is refused, and the next one passes', {}, async link => {
  const { guestEnd, hostEnd } = link;
  const content = new Content(44);
  for (const [from, to] of [
    [guestEnd, hostEnd],
    [hostEnd, guestEnd],
  ] as const) {
    changeLink(from.interface, { mtu: 4000 }, from.netns);
    const frame = (n: number, length: number) => content.frame(n, length, macOf(to), macOf(from));
    const [giant, full] = [frame(1, 3000), frame(2, LONGEST)];
    const before = kernelStats(to);
    using sender = openPacket(from.interface, { netns: from.netns });
    using receiver = openPacket(to.interface, { netns: to.netns }).setTimeouts(WAIT_MS);
    for (const bytes of [giant, frame(3, 1519), full]) send(sender, bytes);
    assert.deepEqual(receive(receiver), full);
    assert.equal(kernelStats(to).rxPackets - before.rxPackets, 1);
    const counters = await (from === guestEnd ? link.guest : link.serve).counters();
    assert.equal(counters.port.tooLong, 2);
  }
});

linkTest('--pcap of the backend holds what passed', { serve: ['--pcap', capturePath()] }, async link => {
  const { guestEnd, hostEnd } = link;
  const content = new Content(45);
  const frames = Array.from({ length: 20 }, (_, n) =>
    content.frame(n, content.size(n, SHORTEST, LONGEST), macOf(hostEnd), macOf(guestEnd)),
  );
  exchange(guestEnd, hostEnd, frames);
  await link.serve.end();
  const capture = readFileSync(capturePath());
  rmSync(capturePath());
  let at = 0;
  for (const frame of frames) {
    at = capture.indexOf(frame, at);
    assert.ok(at > 0, 'a frame is not in the capture file');
    at += frame.length;
  }
});

/** A side's counters of one direction, as the guest sees it. */
async function moved(side: Program, direction: 'rx' | 'tx') {
  return total((await side.counters()).queues, direction);
}

function capturePath(): string {
  return join(process.env.TMPDIR ?? '/tmp', `polynic-frames-${process.pid}.pcapng`);
}

/** The first frames have the sizes where mistakes live. */
function edgeSize(n: number): number | undefined {
  return [SHORTEST, SHORTEST + 1, 59, 60, 61, 1513, LONGEST][n];
}

/** Sends frames in small groups, and checks that the same come out, byte for byte and in order. */
function exchange(from: End, to: End, frames: readonly Buffer[]): void {
  using sender = openPacket(from.interface, { netns: from.netns });
  using receiver = openPacket(to.interface, { netns: to.netns }).setTimeouts(WAIT_MS);
  receiver.setBuffers({ receive: 4 << 20 });
  for (let i = 0; i < frames.length; i += 50) {
    const group = frames.slice(i, i + 50);
    for (const frame of group) send(sender, frame);
    for (const [k, frame] of group.entries()) {
      assert.deepEqual(receive(receiver), frame, `frame ${i + k}, ${frame.length} bytes`);
    }
  }
}

function send(socket: Socket, frame: Buffer): void {
  const sent = socket.send(frame, frame.length);
  if (sent !== frame.length) throw new LinuxError('send', -sent, `a frame of ${frame.length} bytes`);
}

function receive(socket: Socket): Buffer {
  const buffer = Buffer.alloc(4096);
  const got = socket.recv(buffer, buffer.length);
  if (got === -EAGAIN) throw new Error(`no frame for ${WAIT_MS} ms`);
  if (got < 0) throw new LinuxError('recv', -got, socket.name);
  return buffer.subarray(0, got);
}

function macOf(end: End): Uint8Array {
  return Uint8Array.from(end.mac.split(':'), octet => Number.parseInt(octet, 16));
}
