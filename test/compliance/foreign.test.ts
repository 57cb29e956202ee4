/**
 * Other people's programs against our device side: the objects of test/data/foreign, each of which is a whole driver's side of one ring format. What a
 * guest asks of them is asked here: they load, the verifier takes them, and they pass what the shipped ones pass.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadObject } from '../../src/ebpf/elf.js';
import { decodeProgram } from '../../src/ebpf/program.js';
import { type Accepted, verify } from '../../src/ebpf/verifier/index.js';
import { BPFHV_HELPERS } from '../../src/guest/bpfhv/helpers.js';
import { PROGRAMS, type ProgramSection, promisesTo } from '../../src/guest/bpfhv/registers.js';
import { ReceiveFlow, TransmitFlow } from './actors.js';
import { packetCompliance } from './packets.js';
import { RINGS } from './rings.js';
import { ringCompliance } from './suite.js';
import { Testbed } from './testbed.js';

const DATA = fileURLToPath(new URL('../../../test/data/foreign/', import.meta.url));
const RING_OF = { sring: RINGS.sring, gso: RINGS.sring_gso, packed: RINGS.vring_packed } as const;
const CONTEXT_SIZE = {
  sring: 2096 + 512 + 24 * 256,
  sring_gso: 2096 + 512 + 32 * 256,
  vring_packed: 2096 + 320 + 32 * 256,
} as const;
/** Loops of which no bound is seen: how many states there are, and how far it is to a position, say the rings alone. */
const UNDER_A_BUDGET: Readonly<Record<string, readonly ProgramSection[]>> = {
  'packed-scan': ['rxr', 'txr'],
  'packed-walk': ['rxi', 'txi'],
};

/** Descriptors that a queue may have at most. */
const LARGEST = 8192;

const sections = new Set<string>(PROGRAMS.map(({ section }) => section));
const objects = readdirSync(DATA).filter(name => name.endsWith('.o'));

for (const name of objects) {
  const object = join(DATA, name);
  const [kind, rest] = name.replace(/(-v3)?\.o$/, '').split('-') as [keyof typeof RING_OF, string];
  const ring = { ...RING_OF[kind], object };

  describe(`${name} as it comes`, () => {
    const { programs } = loadObject(readFileSync(object), { sections });
    const verdicts = new Map<string, Accepted>();

    it('is accepted, with guards', t => {
      assert.equal(programs.size, 8);
      for (const [section, bytes] of programs) {
        const verdict = verify(decodeProgram(bytes, section), {
          ...{ contextSize: CONTEXT_SIZE[ring.device], helpers: BPFHV_HELPERS },
          ...{ guarded: 'context', unbounded: 'budget', promises: promisesTo(section) },
        });
        assert.ok(verdict.accepted, verdict.accepted ? '' : `${section}: ${verdict.reason}`);
        verdicts.set(section, verdict);
        t.diagnostic(
          `${section}: guards at ${verdict.guards.join(', ') || 'none'}${verdict.budget ? ', under a budget' : ''}`,
        );
      }
    });

    it('is seen to end, but where the rings alone say when', () => {
      const budgeted = [...verdicts].filter(([, { budget }]) => budget).map(([section]) => section);
      assert.deepEqual(budgeted.sort(), UNDER_A_BUDGET[`${kind}-${rest}`] ?? []);
    });
  });
  ringCompliance(ring);
  if (kind === 'gso') packetCompliance(ring);

  it(`${name}, the largest rings: filled, armed to their end, and taken back`, () => {
    const bed = new Testbed({ device: ring.device, object, num: LARGEST });
    try {
      const { calls } = bed.datapath;
      for (const seam of [0, LARGEST - 1]) {
        bed.reset();
        for (const side of bed.sides) ring.seek(bed, side, seam);
        for (const { queue } of bed.sides) assert.ok(bed.ring.resume(queue.address));
        const tx = new TransmitFlow(bed);
        const rx = new ReceiveFlow(bed);
        rx.refill();
        while (tx.publish(128).sent > 0);
        for (const side of bed.sides) {
          assert.deepEqual(bed.audit(side), { free: 0, driver: 0, device: LARGEST });
          assert.equal(calls.driver_arm(side.driver, LARGEST), 0);
          assert.equal(calls.driver_reclaim(side.driver), LARGEST);
          assert.equal(bed.audit(side).free, LARGEST);
        }
      }
    } finally {
      bed.close();
    }
  });
}

it('there are objects for every ring format, in two ways each', () => {
  assert.equal(objects.length, 12);
  for (const kind of Object.keys(RING_OF)) {
    assert.equal(objects.filter(name => name.startsWith(`${kind}-`)).length, 4, kind);
  }
});
