/** TCP streams of random bytes whose checksum must come through, one way, the other way, and both ways at once. */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import type { Link } from './harness.js';
import { type Transfer, tcpTransfer } from './traffic.js';

export async function tcpStreams(link: Link, t: TestContext, bytes: number): Promise<void> {
  const { guestEnd, hostEnd } = link;
  const there = (seed: number) => tcpTransfer(guestEnd, hostEnd, { seed, bytes });
  const back = (seed: number) => tcpTransfer(hostEnd, guestEnd, { seed, bytes });
  judge(t, 'guest to host', bytes, await there(11));
  judge(t, 'host to guest', bytes, await back(12));
  const both = await Promise.all([there(13), back(14)]);
  judge(t, 'guest to host, with the other way busy', bytes, both[0]);
  judge(t, 'host to guest, with the other way busy', bytes, both[1]);
}

function judge(
  t: TestContext,
  way: string,
  bytes: number,
  { sent, got }: { sent: Transfer; got: Transfer },
): void {
  t.diagnostic(`${way}: ${bytes} bytes, ${((bytes * 8) / got.seconds / 1e9).toFixed(2)} Gbit/s`);
  assert.equal(got.bytes, bytes, way);
  assert.equal(got.sha256, sent.sha256, way);
}
