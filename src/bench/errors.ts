/**
 * - `BENCH`           a measurement that could not be made, or whose result can't be trusted
 * - `BENCH_MISSING`   it needs something that is not here: a program, a kernel; the message says what
 */
export class BenchError extends Error {
  override readonly name = 'BenchError';
  readonly code: 'BENCH' | 'BENCH_MISSING';

  constructor(message: string, code: BenchError['code'] = 'BENCH') {
    super(message);
    this.code = code;
  }
}
