/** What a hostile side writes: random numbers, and those that are most likely to hurt. */
import * as L from '../../datapath/layout.js';
import { PROGRAMS } from '../../src/guest/bpfhv/registers.js';
import { type Side, type Testbed, window } from '../compliance/testbed.js';

type Random = (below: number) => number;

const WORDS = [
  0, 1, 2, 15, 16, 17, 63, 64, 65, 1518, 1519, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0xffff_fff0,
];

export function anyWord(random: Random): number {
  return random(3) === 0 ? random(2 ** 32) : WORDS[random(WORDS.length)]!;
}

/** An address that a guest may name: good ones, edges, nonsense. */
export function anyAddress(bed: Testbed, random: Random): bigint {
  const { ram, forbidden } = bed;
  switch (random(5)) {
    case 0:
      return BigInt(anyWord(random)) * 2n ** 32n + BigInt(anyWord(random));
    case 1:
      return forbidden[random(forbidden.length)]! + BigInt(random(4200) - 100);
    default:
      return ram.guestPhysicalAddress + BigInt(random(ram.size));
  }
}

/** One write into the opaque part of a context, through the guest's mapping: a field, a descriptor, or a single byte anywhere. */
export function mutate(bed: Testbed, side: Side, random: Random): void {
  const ring = side.context + L.CTX_OPAQUE;
  const words = (side.contextSize - L.CTX_OPAQUE) >>> 2;
  const at = (ring >>> 2) + random(words);
  switch (random(6)) {
    case 0:
      window.bytes[ring + random(side.contextSize - L.CTX_OPAQUE)] = random(256);
      return;
    case 1:
      window.words[at] = (window.words[at]! + random(9) - 4) >>> 0;
      return;
    case 2: {
      const address = anyAddress(bed, random);
      window.longs[((ring + 7) >>> 3) + random((words >>> 1) - 1)] = BigInt.asUintN(64, address);
      return;
    }
    case 3:
      // The first words are indices and flags in every format: hit them more often.
      window.words[(ring >>> 2) + random(2) * 32 + random(3)] = anyWord(random);
      return;
    case 4:
      window.words[(ring >>> 2) + random(2)] = (window.words[(ring >>> 2) + 32]! + random(20)) >>> 0;
      return;
    default:
      window.words[at] = anyWord(random);
  }
}

/** Publishes through the program, what and how much it likes. What the program traps on is its own affair. */
export function publishAnything(bed: Testbed, side: Side, random: Random): void {
  const n = side.direction === 'tx' ? 1 : 1 + random(bed.num);
  for (let i = 0; i < n; i++) {
    const buf = side.context + L.CTX_BUFS + i * L.BUF_SIZE;
    window.longs[(buf + L.BUF_COOKIE) / 8] = BigInt(random(64));
    window.longs[(buf + L.BUF_PADDR) / 8] = BigInt.asUintN(64, anyAddress(bed, random));
    window.words[(buf + L.BUF_LEN) >>> 2] = random(4) === 0 ? anyWord(random) : 1 + random(1518);
  }
  window.words[(side.context + L.CTX_NUM_BUFS) >>> 2] = n;
  const { number } = PROGRAMS.find(({ section }) => section === `${side.direction}p`)!;
  const run = bed.datapath.table.get(number) as (context: bigint) => bigint;
  try {
    run(BigInt(side.context));
  } catch (error) {
    if (!(error instanceof WebAssembly.RuntimeError)) throw error;
  }
}
