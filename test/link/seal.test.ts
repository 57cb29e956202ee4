/**
 * Two guests that seal their packets, and a provider who looks, changes, repeats and forges: what comes through, what the provider gets to see,
 * and what is counted.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { type Endpoint, openPacket, openPing, openUdp, type Socket } from '../../src/linux/socket.js';
import { eventually } from '../../src/linux/testing.js';
import { linkTest } from './harness.js';
import { PATIENCE_MS } from './program.js';
import { type SealedPair, type Side, sealedTest, searchMemory } from './sealed-pair.js';
import { tcpTransfer, UdpFlow } from './traffic.js';

const MARKER = Buffer.from('a plaintext that no provider may ever see '.repeat(8));
const FOREIGN_KEY = Buffer.alloc(32, 1);
const ETHERNET = 14;
const PREFIX_AND_COUNTER = 11;

/** A socket that says things, and one that hears them. */
class Talk {
  readonly #from: Socket;
  readonly #to: Socket;
  readonly #heard = Buffer.alloc(2048);

  constructor(from: Side, to: Side, port = 6000) {
    const at: Endpoint = { ip: to.end.ip, port };
    this.#to = openUdp(to.end.ip, { netns: to.end.netns, nonblocking: true }).bind(at);
    this.#from = openUdp(from.end.ip, { netns: from.end.netns, nonblocking: true }).connect(at);
  }

  say(words: Buffer): void {
    this.#from.send(words, words.length);
  }

  hear(): string | null {
    const length = this.#to.recv(this.#heard, this.#heard.length);
    return length < 0 ? null : this.#heard.toString('latin1', 0, length);
  }

  close(): void {
    this.#from.close();
    this.#to.close();
  }
}

/** Says something until it is heard: the first packets may be lost while the bridge learns. */
async function reach(from: Side, to: Side): Promise<void> {
  const talk = new Talk(from, to, 6001);
  try {
    await eventually(() => {
      talk.say(Buffer.from('hello'));
      return talk.hear() === 'hello';
    }, 30_000);
  } finally {
    talk.close();
  }
}

/** Sends an ICMP echo request from `from` until an answer comes. */
async function ping(from: Side, to: Side): Promise<void> {
  const socket = openPing(to.end.ip, { netns: from.end.netns, nonblocking: true });
  try {
    const answer = Buffer.alloc(256);
    const request = Buffer.concat([Buffer.of(8, 0, 0, 0, 0, 0, 0, 1), MARKER.subarray(0, 56)]);
    request.writeUInt16BE(checksum(request), 2);
    socket.connect({ ip: to.end.ip, port: 0 });
    await eventually(() => {
      socket.send(request, request.length);
      return socket.recv(answer, answer.length) > 0;
    }, 30_000);
  } finally {
    socket.close();
  }
}

function checksum(bytes: Buffer): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += bytes.readUInt16BE(i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

/** Traffic both ways, all of it checked byte for byte. */
async function traffic({ a, b }: SealedPair, bytes: number, count: number): Promise<void> {
  await ping(a, b);
  for (const [from, to, seed] of [
    [a, b, 21],
    [b, a, 22],
  ] as const) {
    const { sent, got } = await tcpTransfer(from.end, to.end, { seed, bytes });
    assert.deepEqual([got.bytes, got.sha256], [bytes, sent.sha256], 'TCP');
    const flow = await UdpFlow.start(from.end, to.end, { seed, count, window: 128 });
    const { packets, corrupt, repeated, late } = (await flow.finished()).got;
    assert.deepEqual(
      { packets, corrupt, repeated, late },
      { packets: count, corrupt: 0, repeated: 0, late: 0 },
    );
  }
}

/** All frames of a capture. */
function frames(capture: string): Buffer[] {
  const file = readFileSync(capture);
  const found: Buffer[] = [];
  for (let at = 0; at + 12 <= file.length; at += file.readUInt32LE(at + 4)) {
    if (file.readUInt32LE(at) === 6) found.push(file.subarray(at + 28, at + 28 + file.readUInt32LE(at + 20)));
  }
  return found;
}

const isIp = (frame: Buffer) => frame.readUInt16BE(12) === 0x0800;
/** Prefix and counter of a sealed IPv4 packet without options. */
const nonceOf = (frame: Buffer) => frame.toString('hex', ETHERNET + 20, ETHERNET + 20 + PREFIX_AND_COUNTER);

linkTest('without sealing the search finds what a guest sends', {}, async ({ guest, guestEnd, hostEnd }) => {
  const to = openUdp(hostEnd.ip, { netns: hostEnd.netns }).bind({ ip: hostEnd.ip, port: 6000 });
  const from = openUdp(guestEnd.ip, { netns: guestEnd.netns }).connect({ ip: hostEnd.ip, port: 6000 });
  from.send(MARKER, MARKER.length);
  assert.equal(to.setTimeouts(30_000).recv(Buffer.alloc(2048), 2048), MARKER.length);
  assert.ok(searchMemory(guest, MARKER) >= 0);
  from.close();
  to.close();
});

for (const [device, bytes, count] of [
  ['sring+seal', 4 << 20, 3000],
  ['sring_gso+seal', 1 << 19, 300],
  ['vring_packed+seal', 1 << 19, 300],
] as const) {
  sealedTest(
    `${device}: ping, TCP and UDP both ways; the provider sees none of it`,
    { a: { device }, b: { device } },
    async (pair, t) => {
      const { a, b } = pair;
      await pair.connected();
      assert.deepEqual([a.mtu, b.mtu], [1472, 1472]);
      await traffic(pair, bytes, count);

      // While packets with the marker are on their way, buffers lent and given back again, it is nowhere in what devices can read.
      for (const [from, to] of [
        [a, b],
        [b, a],
      ] as const) {
        const talk = new Talk(from, to);
        for (let round = 0; round < 20; round++) {
          for (let i = 0; i < 16; i++) talk.say(MARKER);
          await eventually(() => talk.hear() === MARKER.toString(), PATIENCE_MS);
          for (const side of pair.sides)
            assert.equal(side.searchMemory(MARKER.subarray(0, 42)), -1, side.port);
        }
        talk.close();
      }
      for (const { guest } of pair.sides) assert.doesNotMatch(guest.output, /nobody with our key|error/);

      await b.serve.end();
      await eventually(() => b.mtu === 1500, 30_000);
      await a.serve.end();
      for (const { capture } of pair.sides) {
        assert.equal(readFileSync(capture).indexOf(MARKER.subarray(0, 42)), -1, 'in the capture');
        const seen = frames(capture);
        assert.ok(seen.length > 2 * count, `${seen.length} frames were captured`);
        const plain = seen.filter(
          frame => frame.readUInt16BE(12) !== 0x0806 && !(isIp(frame) && frame[23] === 253),
        );
        assert.deepEqual(plain, [], 'all but ARP is sealed');
        assert.ok(seen.every(frame => frame.length <= 1514));
      }
      judgeByTshark(a.capture, t);
    },
  );
}

/** What others make of it: IP with good checksums, and nothing inside. */
function judgeByTshark(capture: string, t: { diagnostic(message: string): void }): void {
  const fields = ['-T', 'fields', '-e', 'frame.protocols', '-e', 'ip.checksum.status'];
  const words = ['-r', capture, '-o', 'ip.check_checksum:TRUE', ...fields];
  const { error, stdout } = spawnSync('tshark', words, { encoding: 'utf8', maxBuffer: 1 << 26 });
  if (error) {
    t.diagnostic('tshark is not here to judge the capture');
    return;
  }
  assert.deepEqual([...new Set(stdout.trim().split('\n'))].sort(), [
    'eth:ethertype:arp\t',
    'eth:ethertype:ip:data\t1',
  ]);
}

sealedTest(
  'an upgrade to another sealed format loses nothing and takes no nonce twice; one that does not seal is declined',
  {},
  async ({ a, b }) => {
    await a.carrier();
    await b.carrier();
    await reach(a, b);
    await reach(b, a);
    const flow = await UdpFlow.start(a.end, b.end, { seed: 41, window: 64 });
    try {
      for (const device of ['vring_packed+seal', 'sring_gso+seal', 'sring+seal']) {
        await flow.more(200);
        assert.equal(await a.upgrade(device), null);
        assert.equal(a.mtu, 1472);
      }
      await flow.more(200);
      assert.equal(await a.upgrade('sring'), 'NIC_UPGRADE_DECLINED');
      await a.guest.says(/upgrade declined: contract refused: the device does not seal packets/);
      await flow.more(200);
    } finally {
      await flow.abandon();
    }
    const { sent, got } = await flow.finished();
    assert.deepEqual([got.packets, got.corrupt, got.repeated], [sent.packets, 0, 0]);
    assert.equal((await b.queue('rx')).unauthentic, 0);
    await b.serve.end();
    const nonces = frames(b.capture).filter(isIp).map(nonceOf);
    assert.ok(nonces.length > 1000);
    assert.equal(new Set(nonces).size, nonces.length);
    assert.equal(new Set(nonces.map(nonce => nonce.slice(0, 14))).size, 2, 'one prefix a guest');
  },
);

sealedTest(
  'backends and guests that start anew, another ring format: traffic goes on, no nonce comes twice',
  {},
  async pair => {
    const { a, b } = pair;
    await pair.connected();
    await reach(a, b);
    await a.serve.end();
    a.device = 'vring_packed+seal';
    a.spawnServe();
    await a.plug();
    await a.carrier();
    await reach(a, b);
    await a.guest.end();
    a.spawnGuest();
    await a.setUp();
    await a.carrier();
    await reach(a, b);
    await reach(b, a);
    await b.serve.end();
    const nonces = frames(b.capture).filter(isIp).map(nonceOf);
    assert.equal(new Set(nonces).size, nonces.length);
    // One prefix for A's first guest and its two backends, one for the second guest, one for B.
    assert.equal(new Set(nonces.map(nonce => nonce.slice(0, 14))).size, 3);
  },
);

sealedTest('another key: nothing arrives, and that is counted', { b: { key: FOREIGN_KEY } }, async pair => {
  const { a, b } = pair;
  await pair.connected();
  const talk = new Talk(a, b);
  await eventually(() => {
    talk.say(MARKER);
    return /nobody with our key/.test(b.guest.output);
  }, 30_000);
  assert.equal(talk.hear(), null);
  talk.close();
  const { packets, dropped, unauthentic, errors } = await b.queue('rx');
  assert.ok(unauthentic > 0 && dropped >= unauthentic, `${unauthentic} of ${dropped}`);
  assert.equal(errors, 0);
  assert.ok(packets > 0, 'ARP has passed');
});

sealedTest(
  'sealing and keys that do not go together: refused, in one line',
  { a: { key: null }, b: { device: 'sring' } },
  async ({ a, b }) => {
    for (const [{ guest, mtu }, message] of [
      [a, /seals packets, and this guest has no key: give it one with --key-file$/m],
      [b, /does not seal packets, and this guest has a key to have them sealed$/m],
    ] as const) {
      await guest.says(message);
      assert.equal(guest.stderr.split('\n').filter(line => line.includes('refused')).length, 1);
      assert.doesNotMatch(guest.output, /device running/);
      assert.equal(mtu, 1500);
    }
  },
);

sealedTest('a provider who changes, repeats, forges and reflects: dropped and counted', {}, async pair => {
  const { a, b } = pair;
  await pair.connected();
  await reach(a, b);
  await reach(b, a);
  const unauthentic = async (side: Side) => (await side.queue('rx')).unauthentic;
  assert.deepEqual([await unauthentic(a), await unauthentic(b)], [0, 0]);

  // On the provider's side of A's cable: what A sends comes in, what goes out A receives.
  const onA = openPacket(a.port, { netns: pair.netns, nonblocking: true });
  const onB = openPacket(b.port, { netns: pair.netns, nonblocking: true });
  const talk = new Talk(a, b);
  try {
    const buffer = Buffer.alloc(2048);
    let said = 0;
    const sealed = await eventually(() => {
      talk.say(MARKER);
      said++;
      const length = onA.recv(buffer, buffer.length);
      return length > 0 && isIp(buffer) && Buffer.from(buffer.subarray(0, length));
    });
    for (; said > 0; said--) await eventually(() => talk.hear() === MARKER.toString(), PATIENCE_MS);

    const inject = async (to: Side, on: Socket, frame: Buffer, what: string) => {
      const before = await unauthentic(to);
      assert.equal(on.send(frame, frame.length), frame.length, what);
      let now = before;
      for (const end = performance.now() + 30_000; now === before && performance.now() < end; )
        now = await unauthentic(to);
      assert.equal(now, before + 1, what);
    };
    await inject(b, onB, sealed, 'repeated');
    for (const at of [sealed.length - 1, ETHERNET + 20 + 5, ETHERNET + 20 + 11, ETHERNET + 5]) {
      const changed = Buffer.from(sealed);
      changed[at]! ^= 4;
      await inject(b, onB, changed, `byte ${at} changed`);
    }
    const forged = Buffer.from(sealed);
    forged[ETHERNET + 9] = 17;
    await inject(b, onB, forged, 'not sealed at all');
    const reflected = Buffer.from(sealed);
    sealed.copy(reflected, 0, 6, 12);
    sealed.copy(reflected, 6, 0, 6);
    await inject(a, onA, reflected, "A's own");
    assert.equal(talk.hear(), null, 'none of it has come out');
    talk.say(MARKER);
    await eventually(() => talk.hear() === MARKER.toString(), PATIENCE_MS);
  } finally {
    talk.close();
    onA.close();
    onB.close();
  }
});
