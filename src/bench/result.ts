/** One measured case, as `polynic bench --json` prints it. */
export interface BenchResult {
  /** A path: what, device type, then what of it. */
  readonly case: string;
  readonly value: number;
  readonly unit: 'Mpps' | 'kpps' | 'Gbit/s' | 'ns' | 'us' | 'ms' | 's/GB' | 'guards';
  /** The case of the same run that this one is compared with. */
  readonly against: string | null;
  /** value / value of `against`. */
  readonly ratio: number | null;
}

export function result(
  name: string,
  unit: BenchResult['unit'],
  value: number,
  against?: BenchResult,
): BenchResult {
  const rounded = Number(value.toPrecision(4));
  const ratio = against ? Number((value / against.value).toPrecision(3)) : null;
  return { case: name, value: rounded, unit, against: against?.case ?? null, ratio };
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}
