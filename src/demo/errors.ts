/** Something that the demo promises did not happen; the message says what. `code` is DEMO_FAILED. */
export class DemoError extends Error {
  override readonly name = 'DemoError';
  readonly code = 'DEMO_FAILED';
}
