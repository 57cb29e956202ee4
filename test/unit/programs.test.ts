/**
 * The shipped eBPF objects: their form, that they are what their sources compile to, and that the sring programs do what their
 * ring format says, against a model and with the device moving at the worst moment. (vring_packed: vring-packed-programs.test.ts.)
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { loadObject } from '../../src/ebpf/elf.js';
import { CALL, CLASS, JMP } from '../../src/ebpf/isa.js';
import { decodeProgram } from '../../src/ebpf/program.js';
import {
  type Buf,
  EINVAL,
  ENOMEM,
  HEAD,
  OPAQUE,
  objectOf,
  ProgramBed,
  type Programs,
  programsOf,
  ROOT,
  RX_PKT_ALLOC,
  SECTIONS,
  SMP_MB_FULL,
} from './program-bed.js';
import { FIELD as PACKED, PackedQueue } from './vring-packed-bed.js';

const DEVICES = ['sring', 'vring_packed'];
const FIELD = { PROD: OPAQUE, INTR: OPAQUE + 4, CONS: OPAQUE + 128, KICK: OPAQUE + 132 };
const QMASK = OPAQUE + 256;
const CLEAR = OPAQUE + 384;
const DESC = OPAQUE + 512;

/** A queue of sring. */
class Queue extends ProgramBed {
  constructor(programs: Programs, numBufs: number, start = 0) {
    super(programs, DESC + 24 * numBufs);
    this.set(QMASK, numBufs - 1);
    this.set(FIELD.KICK, 1);
    for (const index of [FIELD.PROD, FIELD.CONS, CLEAR]) this.set(index, start);
  }

  /** The device writes the received length of the descriptor at an index. */
  setLength(index: number, len: number): void {
    this.set(DESC + 24 * ((index & this.get(QMASK)) >>> 0) + 16, len);
  }
}

for (const device of DEVICES)
  describe(`${device}.o`, () => {
    const path = objectOf(device);
    const object = loadObject(readFileSync(path));

    it('has one section per program and nothing to relocate', () => {
      assert.deepEqual([...object.programs.keys()].sort(), [...SECTIONS].sort());
      assert.equal(object.relocations, 0);
      // Section names straight from the file: no data, no relocations of anything, no debug information.
      const file = readFileSync(path);
      const at = Number(file.readBigUInt64LE(40));
      const headers = Array.from({ length: file.readUInt16LE(60) }, (_, i) =>
        file.subarray(at + 64 * i, at + 64 * i + 64),
      );
      const names = Number(headers[file.readUInt16LE(62)]!.readBigUInt64LE(24));
      const sections = headers.map(header => {
        const start = names + header.readUInt32LE(0);
        return file.toString('latin1', start, file.indexOf(0, start));
      });
      assert.deepEqual(sections.sort(), ['', '.strtab', '.symtab', '.text', ...SECTIONS].sort());
      assert.equal(object.programs.has('.text'), false, '.text is empty');
    });

    for (const [name, bytes] of object.programs) {
      it(`${name} is short, calls only helpers, and reads each field of the ring once`, () => {
        const program = decodeProgram(bytes, name);
        assert.ok(program.slots <= 16384);
        const loads = new Map<number, number>();
        for (const { opcode, src, imm, off } of program.insns) {
          if (opcode === (CLASS.JMP | JMP.CALL)) {
            assert.equal(src, CALL.HELPER);
            assert.ok([RX_PKT_ALLOC, SMP_MB_FULL].includes(imm), `calls ${imm}`);
          }
          if ((opcode & 7) === CLASS.LDX && off >= OPAQUE) loads.set(off, (loads.get(off) ?? 0) + 1);
        }
        for (const [offset, count] of loads) assert.equal(count, 1, `field at ${offset}`);
      });
    }
  });

interface Age {
  readonly content?: Uint8Array;
  readonly posted: number;
  readonly completed: number;
}

/** A context full of `content`, but such that programs work on it. */
const AGED: Readonly<Record<string, (programs: Programs, num: number, age: Age) => ProgramBed>> = {
  sring(programs, num, { content, posted, completed }) {
    const queue = new Queue(programs, num);
    if (content) queue.bytes.set(content);
    queue.set(QMASK, num - 1);
    queue.set(FIELD.PROD, queue.get(CLEAR) + posted);
    queue.set(FIELD.CONS, queue.get(CLEAR) + completed);
    return queue;
  },
  vring_packed(programs, num, { content, posted, completed }) {
    const queue = new PackedQueue(programs, num, { laps: posted, index: completed % num });
    const fresh = queue.bytes.slice(OPAQUE, OPAQUE + 192);
    if (content) queue.bytes.set(content);
    queue.bytes.set(fresh, OPAQUE);
    queue.set16(PACKED.USED_IDX, posted % num);
    for (let i = 0; i < num; i++) {
      queue.set16(queue.stateAt(i) + 12, queue.get16(queue.stateAt(i) + 12) % num);
      queue.set16(queue.descAt(i) + 12, queue.get16(queue.descAt(i) + 12) % (num + 1));
    }
    return queue;
  },
};

describe('sources', () => {
  const [version] = (spawnSync('clang', ['--version'], { encoding: 'utf8' }).stdout ?? '').split('\n');
  const recorded = readFileSync(join(ROOT, 'programs/clang-version.txt'), 'utf8').trim();
  const skip = version ? false : 'clang is not on the PATH; `npm run setup:system` installs it';

  it('compile to the shipped objects', { skip }, t => {
    const out = mkdtempSync(join(tmpdir(), 'polynic-programs-'));
    t.after(() => rmSync(out, { recursive: true }));
    const built = spawnSync(process.execPath, [join(ROOT, 'scripts/programs.mjs'), '--out', out], {
      encoding: 'utf8',
    });
    assert.equal(built.status, 0, built.stderr);
    const numBufs = 16;
    for (const device of DEVICES) {
      const path = join(out, `${device}/${device}.o`);
      if (version === recorded) {
        assert.ok(readFileSync(path).equals(readFileSync(objectOf(device))), 'run `npm run programs`');
      }
      // Whatever compiler it was: the same results and the same memory.
      const [ours, theirs] = [programsOf(objectOf(device)), programsOf(path)];
      assert.deepEqual([...theirs.keys()].sort(), [...ours.keys()].sort());
      const { length } = AGED[device]!(ours, numBufs, { posted: 0, completed: 0 }).bytes;
      fc.assert(
        fc.property(
          fc.constantFrom(...SECTIONS),
          fc.uint8Array({ minLength: length, maxLength: length }),
          fc.oneof(fc.integer({ min: 0, max: 3 }), fc.integer({ min: 60, max: 70 })),
          fc.integer({ min: 0, max: 70 }),
          fc.integer({ min: 0, max: 70 }),
          (section, content, count, posted, completed) => {
            const results = [ours, theirs].map(programs => {
              const queue = AGED[device]!(programs, numBufs, { content, posted, completed });
              queue.set(HEAD.NUM_BUFS, count);
              queue.set(HEAD.MIN_COMPLETED, count);
              return { result: queue.run(section), bytes: queue.bytes.slice() };
            });
            assert.deepEqual(results[1], results[0]);
          },
        ),
        { numRuns: 400 },
      );
    }
  });
});

describe('sring programs', () => {
  const programs = programsOf(objectOf('sring'));
  const buf = fc.record({
    cookie: fc.bigInt(0n, 2n ** 64n - 1n),
    paddr: fc.bigInt(0n, 2n ** 64n - 1n),
    len: fc.nat(),
  });
  // Free-running indices: start where they are about to wrap as often as elsewhere.
  const start = fc.oneof(
    fc.integer({ min: 0, max: 0xffff_ffff }),
    fc.integer({ min: 0xffff_ffe0, max: 0xffff_ffff }),
  );
  const numBufs = fc.constantFrom(16, 32, 128);

  for (const direction of ['rx', 'tx'] as const) {
    it(`${direction}: buffers come back in order, each once, with the device in between and reclaim at the end`, () => {
      const step = fc.oneof(
        fc.record({
          kind: fc.constant('publish' as const),
          bufs: fc.array(buf, { minLength: 1, maxLength: 64 }),
        }),
        fc.record({
          kind: fc.constant('device' as const),
          count: fc.integer({ min: 1, max: 20 }),
          len: fc.nat(),
        }),
        fc.record({ kind: fc.constant('complete' as const), times: fc.integer({ min: 1, max: 20 }) }),
      );
      fc.assert(
        fc.property(start, numBufs, fc.array(step, { maxLength: 30 }), (first, size, steps) => {
          const queue = new Queue(programs, size, first);
          const flying: Buf[] = []; // from clear to prod
          let completed = 0; // of them
          const publish = (bufs: Buf[]): void => {
            bufs.forEach((b, i) => {
              queue.setBuf(i, b);
            });
            queue.set(HEAD.NUM_BUFS, bufs.length);
            assert.equal(queue.run(`${direction}p`), 0);
            assert.equal(queue.get(HEAD.OFLAGS), 1);
            flying.push(...bufs.map(b => ({ ...b })));
          };
          for (const s of steps) {
            if (s.kind === 'publish') {
              const bufs = s.bufs.slice(0, size - flying.length);
              if (direction === 'rx' && bufs.length > 0) publish(bufs);
              if (direction === 'tx') for (const b of bufs) publish([b]);
            } else if (s.kind === 'device') {
              for (let i = 0; i < s.count && completed < flying.length; i++) {
                const cons = queue.get(FIELD.CONS);
                queue.setLength(cons, (flying[completed++]!.len = s.len));
                queue.set(FIELD.CONS, cons + 1);
              }
            } else {
              for (let i = 0; i < s.times; i++) {
                assert.equal(queue.run(`${direction}c`), completed > 0 ? 1 : 0);
                if (completed === 0) continue;
                assert.deepEqual(queue.bufs(), [flying.shift()]);
                completed -= 1;
              }
            }
            assert.equal((queue.get(FIELD.PROD) - queue.get(CLEAR)) >>> 0, flying.length);
          }
          const batch = direction === 'rx' ? 64 : 1;
          while (flying.length > 0) {
            assert.equal(queue.run(`${direction}r`), 1);
            assert.deepEqual(queue.bufs(), flying.splice(0, batch));
          }
          assert.equal(queue.run(`${direction}r`), 0);
          assert.equal(queue.get(HEAD.NUM_BUFS), 0);
          const prod = queue.get(FIELD.PROD);
          assert.deepEqual([queue.get(FIELD.CONS), queue.get(CLEAR)], [prod, prod]);
        }),
        { numRuns: 150 },
      );
    });
  }

  it('publish stores prod before the barrier and loads kick_enabled after it', () => {
    for (const section of ['rxp', 'txp']) {
      for (const wanted of [0, 1]) {
        const queue = new Queue(programs, 16);
        queue.set(FIELD.KICK, 1 - wanted);
        queue.set(HEAD.OFLAGS, 3);
        queue.set(HEAD.NUM_BUFS, 1);
        queue.setBuf(0, { cookie: 7n, paddr: 8n, len: 9 });
        queue.onBarrier = () => {
          assert.equal(queue.get(FIELD.PROD), 1);
          assert.deepEqual([queue.get(DESC), queue.get(DESC + 8), queue.get(DESC + 16)], [7, 8, 9]);
          queue.set(FIELD.KICK, wanted);
        };
        assert.equal(queue.run(section), 0);
        assert.equal(queue.get(HEAD.OFLAGS), wanted);
      }
    }
  });

  it('publish refuses what does not fit and changes nothing', () => {
    for (const [section, count] of [
      ['rxp', 65],
      ['rxp', 0xffff_ffff],
      ['txp', 0],
      ['txp', 2],
      ['txp', 0xffff_ffff],
    ] as const) {
      const queue = new Queue(programs, 16);
      queue.set(HEAD.NUM_BUFS, count);
      const before = queue.bytes.slice();
      assert.equal(queue.run(section), -EINVAL);
      assert.deepEqual(queue.bytes.slice(), before);
    }
  });

  it('rxc hands the buffer to rx_pkt_alloc, whose failure loses the packet and not the queue', () => {
    const queue = new Queue(programs, 16);
    for (let i = 0; i < 2; i++) queue.setBuf(i, { cookie: BigInt(i), paddr: 0n, len: 1518 });
    queue.set(HEAD.NUM_BUFS, 2);
    queue.run('rxp');
    queue.set(FIELD.CONS, 2);
    queue.onAlloc = () => {
      assert.deepEqual(queue.bufs(), [{ cookie: 0n, paddr: 0n, len: 1518 }]);
      return -ENOMEM;
    };
    assert.equal(queue.run('rxc'), -ENOMEM);
    queue.onAlloc = () => 0;
    assert.equal(queue.run('rxc'), 1);
    assert.equal(queue.bufs()[0]!.cookie, 1n);
    queue.onAlloc = () => assert.fail('there is no packet');
    assert.equal(queue.run('rxc'), 0);
  });

  it('rxi switches interrupts and sees what was completed before the device saw that', () => {
    for (const wanted of [0, 1, 2, 5]) {
      for (const completed of [0, 1, 2, 5]) {
        const queue = new Queue(programs, 16, 0xffff_fffe);
        queue.set(FIELD.INTR, wanted === 0 ? 1 : 0);
        queue.set(HEAD.MIN_COMPLETED, wanted);
        queue.onBarrier = () => {
          assert.equal(queue.get(FIELD.INTR), wanted === 0 ? 0 : 1);
          queue.set(FIELD.CONS, queue.get(CLEAR) + completed);
        };
        assert.equal(queue.run('rxi'), completed >= wanted ? 1 : 0);
      }
    }
  });

  it('txi interrupts exactly when as many as wanted are done, or says that they are already', () => {
    fc.assert(
      fc.property(
        start,
        fc.integer({ min: 1, max: 64 }),
        fc.integer({ min: 0, max: 64 }),
        fc.array(fc.integer({ min: 1, max: 20 }), { maxLength: 12 }),
        (clear, wanted, before, moves) => {
          const queue = new Queue(programs, 128, clear);
          queue.set(HEAD.MIN_COMPLETED, wanted);
          queue.onBarrier = () => queue.set(FIELD.CONS, clear + before);
          assert.equal(queue.run('txi'), before >= wanted ? 1 : 0);
          if (before >= wanted) return;
          let done = before;
          for (const move of moves) {
            const [old, now] = [(clear + done) >>> 0, (clear + done + move) >>> 0];
            const interrupt = (now - queue.get(FIELD.INTR) - 1) >>> 0 < (now - old) >>> 0;
            assert.equal(interrupt, done < wanted && done + move >= wanted);
            done += move;
          }
        },
      ),
      { numRuns: 500 },
    );
  });

  it('txi with nothing wanted does nothing', () => {
    const queue = new Queue(programs, 16);
    queue.set(FIELD.INTR, 1234);
    queue.onBarrier = () => assert.fail('no barrier');
    const before = queue.bytes.slice();
    queue.run('txi');
    assert.deepEqual(queue.bytes.slice(), before);
  });

  it('a mask that the device has falsified cannot lead outside the context', () => {
    for (const section of ['rxp', 'rxc', 'rxr', 'txp', 'txc', 'txr']) {
      const queue = new Queue(programs, 16, 0x7fff_fff0);
      queue.set(QMASK, 0xffff_ffff);
      queue.set(HEAD.NUM_BUFS, 1);
      queue.set(FIELD.CONS, 0x7fff_fff1);
      if (section.endsWith('r') || section.endsWith('c')) queue.set(FIELD.PROD, 0x7fff_fff1);
      assert.throws(() => queue.run(section), { code: 'EBPF_ACCESS' }, section);
    }
  });
});
