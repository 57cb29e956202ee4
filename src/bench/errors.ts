/** A measurement that could not be made, or whose result can't be trusted. */
export class BenchError extends Error {
  override readonly name = 'BenchError';
  readonly code = 'BENCH';
}
