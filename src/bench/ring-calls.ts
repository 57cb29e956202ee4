/**
 * The device's calls of a ring by themselves, 60-byte frames, nanoseconds per packet: pop and complete, or room and push. Each format has its own
 * guest driver at the other end, as it would have.
 *
 *   ring/FORMAT/DIRECTION      FORMAT: a device type, or `split` and `packed`, the virtqueues; all beside sring in the same run
 */
import { deviceType } from '../ring/registry.js';
import { type Bed, bpfhvBed, type Direction, virtioBed } from './bed.js';
import { loadAsDriver } from './programs.js';
import { type BenchResult, result } from './result.js';
import { perPacket, QUICK, type Turn } from './timing.js';
import { flowMover, takeTurn } from './turns.js';

const LENGTH = 60;
const BASELINE = 'sring';

/** Of one direction. sring is measured whatever the formats, and first. */
export async function measureRingCalls(
  formats: readonly string[],
  direction: Direction,
  effort = QUICK,
): Promise<BenchResult[]> {
  const names = [BASELINE, ...formats.filter(format => format !== BASELINE)];
  const taken: Disposable[] = [];
  try {
    const turns: Turn[] = [];
    for (const name of names) {
      const bed = await openBed(name, direction);
      const mover = flowMover(bed);
      taken.push(bed, mover);
      turns.push(spent => takeTurn(bed, mover, spent));
    }
    const [first, ...others] = perPacket(turns, effort).map(({ ring }) => ring);
    const baseline = result(`ring/${BASELINE}/${direction}`, 'ns', first!);
    return [
      baseline,
      ...others.map((ns, i) => result(`ring/${names[i + 1]}/${direction}`, 'ns', ns, baseline)),
    ];
  } finally {
    for (const one of taken.reverse()) one[Symbol.dispose]();
  }
}

async function openBed(format: string, direction: Direction): Promise<Bed> {
  if (format === 'split' || format === 'packed') return virtioBed(format === 'packed', direction, LENGTH);
  const device = deviceType(format)!;
  const bed = bpfhvBed(device, direction, LENGTH);
  const { programs } = await loadAsDriver(device, bed.place);
  bed.install(programs[0]!);
  return bed;
}
