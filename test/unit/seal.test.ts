/** Sealing, with Node's crypto on the other side: what `docs/sealing.md` says of the format, done by hand. */
import assert from 'node:assert/strict';
import { createCipheriv, createDecipheriv, createSecretKey, randomBytes } from 'node:crypto';
import { describe, test } from 'node:test';
import { EBADMSG, EMSGSIZE, EPROTONOSUPPORT, GROWTH, Sealer } from '../../src/guest/bpfhv/seal.js';
import { REPLAY_WINDOW } from '../../src/guest/bpfhv/seal-senders.js';

const ROOM = 1518;
const SEALED = 253;
const KEY = Buffer.alloc(32, 7);
const MACS = Buffer.from('02000000000102000000000d', 'hex');

const sealer = (limits = {}, key = KEY) => new Sealer(createSecretKey(key), limits);

/** A frame: Ethernet, tags, IP header, payload, padding. */
interface Parts {
  readonly tags?: string;
  readonly header: Buffer;
  readonly payload: Buffer;
  readonly padding?: number;
}

function frame({ tags = '', header, payload, padding = 0 }: Parts): Buffer {
  const type = header[0]! >> 4 === 4 ? '0800' : '86dd';
  return Buffer.concat([MACS, Buffer.from(tags + type, 'hex'), header, payload, Buffer.alloc(padding, 0xee)]);
}

function ipv4(protocol: number, payload: number, { options = '', flags = 0x4000, id = 0x1234 } = {}): Buffer {
  const tail = Buffer.from(options, 'hex');
  const header = Buffer.alloc(20 + tail.length);
  header[0] = 0x40 | (header.length / 4);
  header[1] = 0x02;
  header.writeUInt16BE(header.length + payload, 2);
  header.writeUInt16BE(id, 4);
  header.writeUInt16BE(flags, 6);
  header[8] = 63;
  header[9] = protocol;
  Buffer.from([10, 9, 0, 1, 10, 9, 0, 2]).copy(header, 12);
  tail.copy(header, 20);
  header.writeUInt16BE(checksum(header), 10);
  return header;
}

function ipv6(protocol: number, payload: number): Buffer {
  const header = Buffer.alloc(40);
  header.writeUInt32BE(0x6123_4567, 0);
  header.writeUInt16BE(payload, 4);
  header[6] = protocol;
  header[7] = 64;
  Buffer.from('fd00000000000000000000000000000afd00000000000000000000000000000b', 'hex').copy(header, 8);
  return header;
}

function checksum(header: Buffer): number {
  let sum = 0;
  for (let i = 0; i < header.length; i += 2) sum += header.readUInt16BE(i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

/** Runs `seal` or `open` on a frame in memory with other things around it. */
function run(
  work: (bytes: Uint8Array, at: number, length: number) => number,
  input: Buffer,
): Buffer | number {
  const at = 64;
  const bytes = new Uint8Array(4096).fill(0xdb);
  bytes.set(input, at);
  const result = work(bytes, at, input.length);
  assert.ok(
    bytes.subarray(0, at).every(byte => byte === 0xdb),
    'bytes in front were touched',
  );
  assert.ok(
    bytes.subarray(at + ROOM).every(byte => byte === 0xdb),
    'bytes behind were touched',
  );
  return result < 0 ? result : Buffer.from(bytes.slice(at, at + result));
}
const seal = (by: Sealer, input: Buffer, queue = 0) =>
  run((bytes, at, length) => by.seal(bytes, at, length, ROOM, queue), input);
const open = (by: Sealer, input: Buffer) => run((bytes, at, length) => by.open(bytes, at, length), input);

/** Where things are in a sealed frame, and what its nonce and its additional data are. */
function dissect(sealed: Buffer, l3: number) {
  const v4 = sealed[l3]! >> 4 === 4;
  const size = v4 ? (sealed[l3]! & 15) * 4 : 40;
  const header = Buffer.from(sealed.subarray(l3, l3 + size));
  const body = sealed.subarray(l3 + size);
  const aad = Buffer.from(header);
  if (v4) for (const i of [1, 8, 10, 11]) aad[i] = 0;
  else {
    aad[0]! &= 0xf0;
    for (const i of [1, 2, 3, 7]) aad[i] = 0;
  }
  const nonce = Buffer.concat([body.subarray(0, 11), Buffer.of(1)]);
  return { header, nonce, aad, encrypted: body.subarray(11, -16), tag: body.subarray(-16) };
}

/** Opens by hand: protocol and payload. */
function decrypt(sealed: Buffer, l3: number): { protocol: number; payload: Buffer } {
  const { nonce, aad, encrypted, tag } = dissect(sealed, l3);
  const decipher = createDecipheriv('aes-256-gcm', KEY, nonce);
  decipher.setAAD(aad);
  decipher.setAuthTag(tag);
  const plain = Buffer.concat([decipher.update(encrypted), decipher.final()]);
  return { protocol: plain.at(-1)!, payload: plain.subarray(0, -1) };
}

/** Seals by hand. */
function encrypt({ tags, header, payload }: Parts, prefix: Buffer, counter: number): Buffer {
  const v4 = header[0]! >> 4 === 4;
  const outer = Buffer.from(header);
  outer[v4 ? 9 : 6] = SEALED;
  outer.writeUInt16BE(header.readUInt16BE(v4 ? 2 : 4) + 28, v4 ? 2 : 4);
  if (v4) {
    outer.writeUInt16BE(0, 10);
    outer.writeUInt16BE(checksum(outer), 10);
  }
  const front = Buffer.concat([prefix, Buffer.alloc(4)]);
  front.writeUInt32BE(counter, 7);
  const empty = frame({
    ...(tags ? { tags } : {}),
    header: outer,
    payload: Buffer.concat([front, Buffer.alloc(16)]),
  });
  const { nonce, aad } = dissect(empty, empty.length - outer.length - 27);
  const cipher = createCipheriv('aes-256-gcm', KEY, nonce);
  cipher.setAAD(aad);
  const plain = Buffer.concat([payload, Buffer.of(header[v4 ? 9 : 6]!)]);
  const encrypted = Buffer.concat([cipher.update(plain), cipher.final()]);
  const body = Buffer.concat([front, encrypted, cipher.getAuthTag()]);
  return frame({ ...(tags ? { tags } : {}), header: outer, payload: body });
}

const payload = randomBytes(100);
const CASES: Readonly<Record<string, Parts>> = {
  IPv4: { header: ipv4(6, 100), payload },
  'IPv4 with options': { header: ipv4(17, 100, { options: '0101010194040000' }), payload },
  'IPv4, the longest header': { header: ipv4(17, 100, { options: '01'.repeat(40) }), payload },
  'IPv4 in a VLAN': { tags: '81000064', header: ipv4(1, 100), payload },
  'IPv4 in two VLANs': { tags: '88a8006481000065', header: ipv4(6, 100), payload },
  'a first fragment': { header: ipv4(17, 96, { flags: 0x2000 }), payload: payload.subarray(0, 96) },
  'a last fragment': { header: ipv4(17, 100, { flags: 12 }), payload },
  IPv6: { header: ipv6(6, 100), payload },
  'IPv6 in a VLAN': { tags: '8100c005', header: ipv6(58, 100), payload },
  'no payload': { header: ipv4(59, 0), payload: Buffer.alloc(0) },
  'IPv6 without payload': { header: ipv6(59, 0), payload: Buffer.alloc(0) },
  'one byte': { header: ipv4(17, 1), payload: Buffer.of(9) },
  'as long as a frame may be': { header: ipv4(6, 1456), payload: randomBytes(1456) },
  'sealed already': { header: ipv4(SEALED, 100), payload },
};

describe('a packet', () => {
  for (const [name, parts] of Object.entries(CASES)) {
    const plain = frame(parts);
    const l3 = 14 + (parts.tags?.length ?? 0) / 2;

    test(`${name}: sealed by the helper, opened by hand`, () => {
      const sealed = seal(sealer(), plain) as Buffer;
      assert.equal(sealed.length, plain.length + 28);
      assert.deepEqual(sealed.subarray(0, l3), plain.subarray(0, l3), 'Ethernet header and tags stay');
      const { header } = dissect(sealed, l3);
      if (parts.header[0]! >> 4 === 4) assert.equal(checksum(header), 0, 'header checksum');
      assert.equal(header[parts.header[0]! >> 4 === 4 ? 9 : 6], SEALED);
      const { protocol, payload } = decrypt(sealed, l3);
      assert.equal(protocol, parts.header[parts.header[0]! >> 4 === 4 ? 9 : 6]);
      assert.deepEqual(payload, parts.payload);
    });

    test(`${name}: sealed by hand, opened by the helper`, () => {
      assert.deepEqual(open(sealer(), encrypt(parts, Buffer.from('abcdefg'), 3)), plain);
    });

    test(`${name}: from helper to helper`, () => {
      const [a, b] = [sealer(), sealer()];
      for (let i = 0; i < 3; i++) assert.deepEqual(open(b, seal(a, plain) as Buffer), plain);
    });
  }

  test('padding behind it does not travel', () => {
    const parts = { header: ipv4(17, 4), payload: Buffer.from('four') };
    const sealed = seal(sealer(), frame({ ...parts, padding: 22 })) as Buffer;
    assert.equal(sealed.length, 14 + 20 + 4 + 28);
    const opened = open(sealer(), Buffer.concat([sealed, Buffer.alloc(9, 0xaa)]));
    assert.deepEqual(opened, frame(parts));
  });

  test('one that would be longer than a frame is refused', () => {
    const fits = frame({ header: ipv4(6, 1456), payload: randomBytes(1456) });
    assert.equal((seal(sealer(), fits) as Buffer).length, ROOM);
    assert.equal(seal(sealer(), frame({ header: ipv4(6, 1457), payload: randomBytes(1457) })), EMSGSIZE);
  });

  test('what may change on the way may change', () => {
    const sealed = seal(sealer(), frame(CASES.IPv4!)) as Buffer;
    sealed[15] = 0x03; // congestion
    sealed[22] = 1; // time to live
    const opened = open(sealer(), sealed) as Buffer;
    assert.deepEqual(opened.subarray(34), payload);
    assert.equal(checksum(opened.subarray(14, 34)), 0);
    const sealed6 = seal(sealer(), frame(CASES.IPv6!)) as Buffer;
    sealed6.set([0x6f, 0xff, 0xff, 0xff], 14);
    sealed6[21] = 1;
    assert.deepEqual((open(sealer(), sealed6) as Buffer).subarray(54), payload);
  });
});

describe('what is no sealed packet does not get through', () => {
  for (const name of ['IPv4', 'IPv4 with options', 'a last fragment', 'IPv6']) {
    test(`${name}: with any bit of it flipped`, () => {
      const sealed = seal(sealer(), frame(CASES[name]!)) as Buffer;
      const b = sealer();
      const v4 = sealed[14]! >> 4 === 4;
      // What a router may change is not authenticated; version and length of the header decide where it ends.
      const free = new Set(v4 ? [15, 22, 24, 25] : [15, 16, 17, 21]);
      for (let bit = 14 * 8; bit < sealed.length * 8; bit++) {
        const at = bit >> 3;
        if (free.has(at) || (!v4 && at === 14 && (bit & 7) < 4)) continue;
        const changed = Buffer.from(sealed);
        changed[at]! ^= 1 << (bit & 7);
        const result = open(b, changed);
        assert.ok(result === EBADMSG || result === EPROTONOSUPPORT, `bit ${bit & 7} of byte ${at}`);
      }
      assert.ok(open(b, sealed) instanceof Buffer, 'as it was, it is good');
    });
  }

  test('cut anywhere', () => {
    const sealed = seal(sealer(), frame(CASES.IPv4!)) as Buffer;
    const b = sealer();
    for (let length = 0; length < sealed.length; length++) {
      assert.ok((open(b, sealed.subarray(0, length)) as number) < 0, `${length} bytes`);
    }
    // With its length field made to match, too.
    for (let payload = 0; payload < sealed.length - 34; payload++) {
      const cut = Buffer.from(sealed.subarray(0, 34 + payload));
      cut.writeUInt16BE(20 + payload, 16);
      assert.equal(open(b, cut), EBADMSG, `${payload} bytes of payload`);
    }
  });

  test('with another key', () => {
    const sealed = seal(sealer({}, randomBytes(32)), frame(CASES.IPv4!)) as Buffer;
    assert.equal(open(sealer(), sealed), EBADMSG);
  });

  test('not sealed at all', () => {
    for (const parts of Object.values(CASES)) assert.equal(open(sealer(), frame(parts)), EBADMSG);
  });

  test('neither IP nor ARP, or not whole: neither way', () => {
    const bad: Readonly<Record<string, Buffer>> = {
      nothing: Buffer.alloc(0),
      'half an Ethernet header': MACS,
      'another type': Buffer.concat([MACS, Buffer.from('88cc', 'hex'), randomBytes(50)]),
      'three tags': frame({ ...CASES.IPv4!, tags: '810000018100000281000003' }),
      'a tag and nothing more': Buffer.concat([MACS, Buffer.from('81000064', 'hex')]),
      'a header cut off': frame({ header: ipv4(6, 0), payload: Buffer.alloc(0) }).subarray(0, 33),
      'shorter than it says': frame({ header: ipv4(6, 100), payload: payload.subarray(1) }),
      'IPv6 shorter than it says': frame({ header: ipv6(6, 100), payload: payload.subarray(1) }),
      'version 6 as IPv4': Buffer.concat([MACS, Buffer.from('0800', 'hex'), ipv6(6, 100), payload]),
      'a header of 16 bytes': change(frame(CASES.IPv4!), 14, 0x44),
      'a header longer than the packet': change(
        frame({ header: ipv4(6, 4), payload: Buffer.alloc(4) }),
        14,
        0x4f,
      ),
    };
    for (const [name, input] of Object.entries(bad)) {
      assert.equal(seal(sealer(), input), EPROTONOSUPPORT, name);
      assert.equal(open(sealer(), input), EPROTONOSUPPORT, name);
    }
  });

  test('ARP passes as it is, but nothing behind it', () => {
    const arp = Buffer.concat([MACS, Buffer.from('08060001080006040001', 'hex'), randomBytes(20)]);
    for (const work of [seal, open]) {
      assert.deepEqual(work(sealer(), arp), arp);
      assert.deepEqual(work(sealer(), Buffer.concat([arp, Buffer.from('secret padding')])), arp);
      assert.equal(work(sealer(), arp.subarray(0, -1)), EPROTONOSUPPORT);
      assert.equal(work(sealer(), change(arp, 18, 7)), EPROTONOSUPPORT, 'addresses of another size');
    }
  });
});

function change(input: Buffer, at: number, value: number): Buffer {
  const changed = Buffer.from(input);
  changed[at] = value;
  return changed;
}

describe('a packet that was had before', () => {
  const sealedBy = (by: Sealer, n: number) =>
    Array.from({ length: n }, () => seal(by, frame(CASES.IPv4!)) as Buffer);

  test('is refused, however long ago it was', () => {
    const packets = sealedBy(sealer(), 3 * REPLAY_WINDOW);
    const b = sealer();
    for (const packet of packets) assert.ok(open(b, packet) instanceof Buffer);
    for (const packet of packets) assert.equal(open(b, packet), EBADMSG);
  });

  test('packets may overtake one another within the window, each once', () => {
    const packets = sealedBy(sealer(), REPLAY_WINDOW + 1);
    const b = sealer();
    const order = [REPLAY_WINDOW, 5, 1, 900, 6, 2];
    for (const i of order) assert.ok(open(b, packets[i]!) instanceof Buffer, `packet ${i}`);
    for (const i of order) assert.equal(open(b, packets[i]!), EBADMSG, `packet ${i} again`);
    assert.equal(open(b, packets[0]!), EBADMSG, 'just behind the window');
  });

  test('a queue that was held up is not taken for one that repeats packets', () => {
    const a = sealer();
    const held = [0, 1].map(() => seal(a, frame(CASES.IPv4!), 1) as Buffer);
    const b = sealer();
    for (let i = 0; i < 2 * REPLAY_WINDOW; i++) {
      assert.ok(open(b, seal(a, frame(CASES.IPv4!), 3) as Buffer) instanceof Buffer);
    }
    for (const packet of held) assert.ok(open(b, packet) instanceof Buffer);
    for (const packet of held) assert.equal(open(b, packet), EBADMSG);
    for (const queue of [1, 3, 5]) {
      assert.equal(open(a, seal(a, frame(CASES.IPv4!), queue) as Buffer), EBADMSG, 'its own');
    }
  });

  test('a leap of the counter forgets what the window has left behind, and no more', () => {
    const a = sealer();
    const packets = sealedBy(a, 2 * REPLAY_WINDOW);
    const b = sealer();
    const taken = [3, 2 * REPLAY_WINDOW - 1, REPLAY_WINDOW, 2 * REPLAY_WINDOW - 2];
    for (const i of taken) assert.ok(open(b, packets[i]!) instanceof Buffer);
    for (const i of [...taken, 4, REPLAY_WINDOW - 1])
      assert.equal(open(b, packets[i]!), EBADMSG, `packet ${i}`);
  });

  test('a forged one does not use the real one up', () => {
    const [packet] = sealedBy(sealer(), 1);
    const b = sealer();
    assert.equal(open(b, change(packet!, packet!.length - 1, packet!.at(-1)! ^ 1)), EBADMSG);
    assert.ok(open(b, packet!) instanceof Buffer);
  });

  test("one's own is refused", () => {
    const a = sealer();
    assert.equal(open(a, seal(a, frame(CASES.IPv4!)) as Buffer), EBADMSG);
  });

  test('several senders have a window each; when there are too many, new ones are refused', () => {
    const b = sealer({ senders: 3 });
    const senders = Array.from({ length: 4 }, () => sealer());
    for (const a of senders.slice(0, 3)) {
      for (const packet of sealedBy(a, 2)) assert.ok(open(b, packet) instanceof Buffer);
    }
    assert.equal(open(b, sealedBy(senders[3]!, 1)[0]!), EBADMSG);
    for (const a of senders.slice(0, 3)) assert.ok(open(b, sealedBy(a, 1)[0]!) instanceof Buffer);
  });
});

describe('nonces', () => {
  const nonceOf = (packet: Buffer) => dissect(packet, 14).nonce.toString('hex');

  test('never come twice: not in one sealer, not in any started anew', () => {
    const nonces = new Set<string>();
    for (let start = 0; start < 50; start++) {
      const a = sealer({ packetsPerPrefix: 7 });
      for (let i = 0; i < 40; i++) nonces.add(nonceOf(seal(a, frame(CASES.IPv4!)) as Buffer));
    }
    assert.equal(nonces.size, 50 * 40);
  });

  test('count up under one prefix, and go on under another when it is used up', () => {
    const a = sealer({ packetsPerPrefix: 3 });
    const b = sealer();
    const nonces = Array.from({ length: 7 }, () => {
      const packet = seal(a, frame(CASES.IPv4!)) as Buffer;
      assert.ok(open(b, packet) instanceof Buffer);
      return nonceOf(packet);
    });
    assert.deepEqual(
      nonces.map(nonce => nonce.slice(14)),
      [0, 1, 2, 0, 1, 2, 0].map(counter => `0000000${counter}01`),
    );
    assert.equal(new Set(nonces.map(nonce => nonce.slice(0, 14))).size, 3);
  });

  test('each queue counts for itself, under a prefix of its own', () => {
    const a = sealer();
    const queues = [1, 3, 1, 3, 3, 1, 63];
    const nonces = queues.map(queue => nonceOf(seal(a, frame(CASES.IPv4!), queue) as Buffer));
    assert.deepEqual(
      nonces.map(nonce => nonce.slice(14)),
      [0, 0, 1, 1, 2, 2, 0].map(counter => `0000000${counter}01`),
    );
    const prefixes = nonces.map(nonce => nonce.slice(0, 14));
    assert.deepEqual(
      prefixes.map(prefix => queues[prefixes.indexOf(prefix)]),
      queues,
    );
  });

  test('a packet that is refused uses none up', () => {
    const a = sealer();
    seal(a, Buffer.alloc(60));
    seal(a, frame({ header: ipv4(6, 1457), payload: randomBytes(1457) }));
    assert.equal(nonceOf(seal(a, frame(CASES.IPv4!)) as Buffer).slice(14), '0000000001');
  });
});

test('28 bytes, as the MTU and the buffers count on', () => assert.equal(GROWTH, 28));
