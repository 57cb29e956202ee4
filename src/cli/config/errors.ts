/** A configuration file that can't be used, and what is wrong with it: each problem a sentence that begins with its place. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  readonly code: 'CONFIG_FILE' | 'CONFIG_INVALID' | 'CONFIG_PROCESS';
  readonly problems: readonly string[];

  constructor(code: ConfigError['code'], ...problems: [string, ...string[]]) {
    const more = problems.length - 1;
    super(more === 0 ? problems[0] : `${problems[0]} (and ${more} more: --check shows them)`);
    this.code = code;
    this.problems = problems;
  }
}
