/**
 * What a fresh process spends on its first programs is mostly the engine's own work: it compiles the verifier and the compiler of programs as they are used for
 * the first time. A driver has that done before there is a device, on a program that has a bit of everything that rings do:
 *
 * ```
 *   driver starts ──► workers start, in threads of their own ─────────────► ready        a device comes ──► its programs, in half the time
 *                     warmUp, in this one, which has nothing else to do ──►
 * ```
 */
import { prepareProgram } from './programs.js';

/** Walks through a packed ring with a loop over 64 buffers, a wrap counter, things kept on the stack, two helpers; test/unit/load-time.test.ts has it as text. */
export const SAMPLE = Buffer.from(
  [
    'vxYAAAAAAABhZxgAAAAAAHtq8P8AAAAAY3ro/wAAAAC3CAAAAAAAAGllUAAAAAAAcWRSAAAAAAC/ggAAAAAAALxTAAAAAAAAZwMA',
    'ACAAAAB3AwAAIAAAAGcCAAAFAAAAv2EAAAAAAAAPIQAAAAAAAHkQWAAAAAAAvzkAAAAAAABhYgQAAAAAAFwpAAAAAAAAZwkAAAQA',
    'AAC/YgAAAAAAAA+SAAAAAAAAewKQAQAAAABVBAIAAAAAAEcAAACAAAAABQABAAAAAAC3AAAAAQAAAGsCmAEAAAAABAUAAAEAAABh',
    'qej/AAAAAC5ZAgAAAAAAtwUAAAAAAACnBAAAAQAAAAcIAAABAAAApQjl/0AAAABrVlAAAAAAAHNGUgAAAAAAhQAAAAkAj0u/YQAA',
    'AAAAAL+iAAAAAAAABwIAAPr///+/owAAAAAAAAcDAAD8////hQAAAAEAj0sVAAMAAAAAAHmh8P8AAAAAYRIAAAAAAAAfIAAAAAAA',
    'AFcAAAABAAAAlQAAAAAAAAA=',
  ].join(''),
  'base64',
);

let isWarm = false;

/** Once a process; takes some 15 ms then. */
export function warmUp(): void {
  if (isWarm) return;
  isWarm = true;
  prepareProgram('rxi', SAMPLE, { contextSize: 8192, budget: 65536 }, [4096]);
}
