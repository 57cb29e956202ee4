/** TCP through real kernels with offloads agreed on in part, in full and not at all: content, sizes of frames, and checksums as captured. */
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { readCapture, type Seen } from '../../src/port/pcapng/testing.js';
import { internetChecksum } from '../unit/internet-checksum.js';
import { kernelStats, type Link, type LinkOptions, linkTest, withIpv6 } from './harness.js';
import { tcpTransfer } from './traffic.js';

const BYTES = 20e6;
const BYTES_V6 = 8e6;
const SERVE = ['--device', 'sring_gso'];

/** What was agreed on, and in which directions segments are left to the other side. */
const AGREED: readonly (readonly [string, LinkOptions, tso: boolean, lro: boolean])[] = [
  ['everything', { serve: SERVE }, true, true],
  ['checksums', { serve: [...SERVE, '--offload', 'csum'] }, false, false],
  ['segments to transmit', { serve: [...SERVE, '--offload', 'tso'] }, true, false],
  ['segments to receive', { serve: SERVE, guest: ['--offload', 'lro'] }, false, true],
  ['nothing', { serve: SERVE, guest: ['--offload', 'none'] }, false, false],
];

for (const [what, options, tso, lro] of AGREED) {
  linkTest(`TCP, agreed on: ${what}`, options, async (link, t) => {
    const there = await stream(link, 'guest', 21);
    const back = await stream(link, 'host', 22);
    t.diagnostic(`bytes a frame: ${Math.round(there)} from the guest, ${Math.round(back)} to it`);
    for (const [size, large] of [
      [there, tso],
      [back, lro],
    ] as const) {
      assert.ok(large ? size > 4000 : size <= 1514, `${size} bytes a frame`);
    }
  });
}

/** The same for IPv6, where segments are other frames (TSOv6, LRO) and checksums cover other addresses. */
for (const [what, options, tso, lro] of AGREED.slice(0, 2)) {
  linkTest(`TCP over IPv6, agreed on: ${what}`, options, async (link, t) => {
    const ends = withIpv6(link);
    const there = await stream(ends, 'guest', 25, BYTES_V6);
    const back = await stream(ends, 'host', 26, BYTES_V6);
    t.diagnostic(`bytes a frame: ${Math.round(there)} from the guest, ${Math.round(back)} to it`);
    assert.ok(tso ? there > 4000 : there <= 1514, `${there} bytes a frame`);
    assert.ok(lro ? back > 4000 : back <= 1514, `${back} bytes a frame`);
    const { softened, dropped } = (await link.serve.counters()).port;
    assert.deepEqual({ softened, dropped }, { softened: 0, dropped: 0 });
  });
}

/** A transfer from one end; returns the mean size of a frame that its kernel sent. */
async function stream(
  link: Pick<Link, 'guestEnd' | 'hostEnd'>,
  from: 'guest' | 'host',
  seed: number,
  bytes = BYTES,
): Promise<number> {
  const { guestEnd, hostEnd } = link;
  const [source, target] = from === 'guest' ? [guestEnd, hostEnd] : [hostEnd, guestEnd];
  const before = kernelStats(source);
  const { sent, got } = await tcpTransfer(source, target, { seed, bytes });
  assert.equal(got.sha256, sent.sha256, `from ${from}`);
  const after = kernelStats(source);
  return (after.txBytes - before.txBytes) / (after.txPackets - before.txPackets);
}

const capture = join(tmpdir(), `polynic-offload-${process.pid}.pcapng`);

linkTest('captures have the checksums of the wire', { serve: [...SERVE, '--pcap', capture] }, async link => {
  await stream(link, 'guest', 23);
  await stream(link, 'host', 24);
  const ends = withIpv6(link);
  await stream(ends, 'guest', 27, BYTES_V6);
  await stream(ends, 'host', 28, BYTES_V6);
  await link.serve.end();
  const { frames, fault } = readCapture(capture);
  rmSync(capture);
  assert.equal(fault, '');
  for (const version of [4, 6] as const) {
    const tcp = frames.filter(frame => isTcp(frame, version));
    const large = tcp.filter(({ bytes }) => bytes.length > 20_000);
    assert.ok(large.length > 100, `${large.length} large frames, IPv${version}`);
    for (const frame of tcp) checkTcp(frame, version);
  }
});

/** IPv4 without options, or IPv6 without extensions; then TCP. */
function isTcp({ bytes }: Seen, version: 4 | 6): boolean {
  const type = (bytes[12]! << 8) + bytes[13]!;
  if (version === 4) return type === 0x800 && bytes[14] === 0x45 && bytes[23] === 6;
  return type === 0x86dd && bytes[20] === 6;
}

function checkTcp({ bytes }: Seen, version: 4 | 6): void {
  const [l4, from, to] = version === 4 ? [34, 26, 34] : [54, 22, 54];
  const length = version === 4 ? (bytes[16]! << 8) + bytes[17]! - 20 : (bytes[18]! << 8) + bytes[19]!;
  const pseudo = Uint8Array.of(...bytes.subarray(from, to), 0, 6, length >>> 8, length);
  const rest = 0xffff - internetChecksum(pseudo);
  assert.equal(
    internetChecksum(bytes.subarray(l4, l4 + length), rest),
    0,
    `a TCP segment of ${length} bytes, IPv${version}`,
  );
}
