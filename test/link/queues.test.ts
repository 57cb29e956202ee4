/**
 * Several queue pairs between two TAPs of several queues: the kernel spreads flows over them at both ends, and each stays where it is.
 *
 * ```
 *   gst0 ═ lane 0 ══ pair 0 ══ lane 0 ═ hst0
 *        ═ lane 1 ══ pair 1 ══ lane 1 ═            a flow: one of these, both ways
 *          …
 * ```
 */
import assert from 'node:assert/strict';
import { setTimeout as pause } from 'node:timers/promises';
import { ioctlValue } from '../../src/linux/libc.js';
import { openTap } from '../../src/linux/tun.js';
import { type End, type Link, linkTest } from './harness.js';
import { ManyFlows } from './many-flows.js';
import type { Program } from './program.js';
import { tcpTransfer } from './traffic.js';

const PAIRS = 4;
/** So many that each of four pairs gets some, but for one time in 10^7. */
const FLOWS = 64;
const TCP_BYTES = 2 << 20;
const TUNSETPERSIST = 0x400454cb;
const PATIENCE_MS = 30_000;
/** Readings in a row that must be the same. */
const LOOKS = 3;

/** Packets of each pair, transmitted and received by the guest. */
interface PairCounts {
  readonly tx: readonly number[];
  readonly rx: readonly number[];
}

async function countsOf(program: Program): Promise<PairCounts> {
  const { queues } = await program.counters();
  const of = (wanted: string) =>
    queues.filter(({ direction }) => direction === wanted).map(({ packets }) => packets);
  return { tx: of('tx'), rx: of('rx') };
}

/** What guest and backend have counted, once they agree and nothing moves any more. */
async function settled(link: Link): Promise<PairCounts> {
  const end = performance.now() + PATIENCE_MS;
  for (let last = '', quiet = 0; ; ) {
    const [guest, serve] = await Promise.all([countsOf(link.guest), countsOf(link.serve)]);
    const now = JSON.stringify(guest);
    quiet = now === last && now === JSON.stringify(serve) ? quiet + 1 : 0;
    if (quiet === LOOKS) return guest;
    last = now;
    if (performance.now() > end) assert.deepEqual(guest, serve, 'what crossed the rings');
    await pause(20); // time for an acknowledgement that was put off
  }
}

/** What `action` moves on each pair. */
async function moved(link: Link, action: () => Promise<unknown>): Promise<PairCounts> {
  const before = await settled(link);
  await action();
  const after = await settled(link);
  const difference = (of: keyof PairCounts) => after[of].map((n, pair) => n - before[of][pair]!);
  return { tx: difference('tx'), rx: difference('rx') };
}

const used = (packets: readonly number[]): number[] => packets.flatMap((n, pair) => (n > 0 ? [pair] : []));

/** Many flows at once; returns the pairs that they used each way. Nothing is lost or out of order. */
async function spread(link: Link, port: number, rounds = 10): Promise<{ tx: number[]; rx: number[] }> {
  const flows = new ManyFlows(link.guestEnd, link.hostEnd, FLOWS, port);
  try {
    let each = 0;
    const { tx, rx } = await moved(link, async () => {
      each = await flows.exchange(rounds);
    });
    const sum = (packets: readonly number[]) => packets.reduce((total, n) => total + n, 0);
    assert.deepEqual([sum(tx), sum(rx)], [FLOWS * each, FLOWS * each]);
    return { tx: used(tx), rx: used(rx) };
  } finally {
    flows.close();
  }
}

/** One flow alone uses one pair, the same both ways. */
async function alone(link: Link, port: number): Promise<void> {
  const flow = new ManyFlows(link.guestEnd, link.hostEnd, 1, port);
  try {
    let each = 0;
    const { tx, rx } = await moved(link, async () => {
      each = await flow.exchange(20);
    });
    assert.equal(used(tx).length, 1, `port ${port}: ${tx}`);
    assert.deepEqual(rx, tx);
    assert.equal(tx[used(tx)[0]!], each);
  } finally {
    flow.close();
  }
}

async function tcpAlone(link: Link, from: End, to: End, seed: number): Promise<void> {
  const { tx, rx } = await moved(link, async () => transfer(from, to, seed));
  assert.equal(used(tx).length, 1, `${tx}`);
  assert.deepEqual(used(rx), used(tx));
}

async function transfer(from: End, to: End, seed: number): Promise<void> {
  const { sent, got } = await tcpTransfer(from, to, { seed, bytes: TCP_BYTES });
  assert.equal(got.sha256, sent.sha256);
}

const all = [0, 1, 2, 3];

for (const [workers, device] of [
  [1, 'sring'],
  [2, 'sring_gso'],
] as const) {
  const words = ['--workers', String(workers)];
  linkTest(
    `${PAIRS} pairs of ${device}, ${workers} worker(s) on each side`,
    { guest: ['--queues', String(PAIRS), ...words], serve: ['--device', device, ...words] },
    async (link, t) => {
      const { guestEnd, hostEnd } = link;
      await t.test('many flows use all pairs; none loses anything, or its order', async () => {
        assert.deepEqual(await spread(link, 20_000), { tx: all, rx: all });
      });
      await t.test('one flow of datagrams uses one pair, the same both ways', async () => {
        for (let port = 21_000; port < 21_008; port++) await alone(link, port);
      });
      await t.test('one TCP connection uses one pair, the same both ways', async () => {
        await tcpAlone(link, guestEnd, hostEnd, 31);
        await tcpAlone(link, hostEnd, guestEnd, 32);
      });
      await t.test('TCP connections both ways at once', async () => {
        const ways = [31, 33, 35].flatMap(seed => [
          transfer(guestEnd, hostEnd, seed),
          transfer(hostEnd, guestEnd, seed + 1),
        ]);
        await Promise.all(ways);
        await settled(link);
      });
      await t.test('the interface goes down and up, and all pairs go on', async () => {
        await link.setInterface(false);
        await link.setInterface(true);
        assert.deepEqual(await spread(link, 23_000), { tx: all, rx: all });
        await alone(link, 24_000);
      });
    },
  );
}

linkTest(
  'fewer pairs than the backend could have, more workers than pairs',
  { guest: ['--queues', '2', '--workers', '8'], serve: ['--queues', '6', '--workers', '8'] },
  async link => {
    assert.deepEqual(await spread(link, 20_000), { tx: [0, 1], rx: [0, 1] });
    for (let port = 21_000; port < 21_004; port++) await alone(link, port);
  },
);

/** Makes an interface that stays when nobody has it open. */
function makeTap({ interface: name, netns }: End, multiQueue: boolean): void {
  const tap = openTap({ name, netns, multiQueue });
  assert.ok(ioctlValue(tap.fd, TUNSETPERSIST, 1) >= 0);
  tap.close();
}

linkTest(
  "the backend's interface was made with one queue: all pairs transmit, the first receives",
  {
    guest: ['--queues', '4', '--workers', '2'],
    serve: ['--workers', '2'],
    before: ({ hostEnd }) => makeTap(hostEnd, false),
  },
  async link => {
    assert.deepEqual(await spread(link, 20_000), { tx: all, rx: [0] });
    await transfer(link.guestEnd, link.hostEnd, 31);
    await transfer(link.hostEnd, link.guestEnd, 32);
  },
);

linkTest(
  "the guest's interface was made with one queue: it transmits on the first pair, and receives on all",
  { guest: ['--queues', '4'], before: ({ guestEnd }) => makeTap(guestEnd, false) },
  async link => {
    const { tx } = await spread(link, 20_000);
    assert.deepEqual(tx, [0]);
    await transfer(link.hostEnd, link.guestEnd, 32);
  },
);

linkTest(
  'interfaces that were made with several queues, and one pair',
  {
    serve: ['--queues', '1'],
    before: ({ guestEnd, hostEnd }) => {
      for (const end of [guestEnd, hostEnd]) makeTap(end, true);
    },
  },
  async link => {
    assert.deepEqual(await spread(link, 20_000), { tx: [0], rx: [0] });
  },
);
