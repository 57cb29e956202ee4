/** What all measurements inside this process share: one window of guest memory, one arena. */
import { STACK_BYTES } from '../ebpf/sandbox.js';
import { Arena } from '../memory/arena.js';
import { Window } from '../memory/window.js';

export interface BenchHost {
  readonly window: Window;
  readonly arena: Arena;
  /** Window address of a stack area for programs. */
  readonly stackBase: number;
}

let host: BenchHost | null = null;

/** Made when it is first asked for: most cases need none. */
export function benchHost(): BenchHost {
  if (host === null) {
    const window = Window.create();
    const arena = new Arena(window);
    host = { window, arena, stackBase: arena.allocate(STACK_BYTES) };
  }
  return host;
}
