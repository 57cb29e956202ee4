/** What the tests of this folder share: a leak check, skips that say why, and waiting with a limit. */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { countProcessFds, openFds } from './fd.js';
import { openMappings, type WasmMemory } from './mmap.js';

declare const WebAssembly: {
  Memory: new (limits: { initial: number; maximum: number; shared: boolean }) => WasmMemory;
};

/** A test at whose end no descriptor and no mapping may be left that was not there before. */
export function leakTest(name: string, body: (t: TestContext) => void | Promise<void>): void {
  test(name, async t => {
    const before = { fds: openFds(), mappings: openMappings(), all: countProcessFds() };
    await body(t);
    assert.deepEqual(openFds(), before.fds, 'descriptors left open');
    assert.deepEqual(openMappings(), before.mappings, 'mappings left open');
    assert.ok(countProcessFds() <= before.all, 'descriptors left open behind the table');
  });
}

/** A leak test that needs the rights of root; otherwise it is skipped and says so. */
export function rootTest(name: string, body: (t: TestContext) => void | Promise<void>): void {
  leakTest(name, t => {
    if (process.geteuid!() !== 0) return t.skip('needs root: it makes network namespaces and devices');
    return body(t);
  });
}

/** Tries until `attempt` gives something, for at most `ms`; for states that the kernel reaches in its own time. */
export async function eventually<T>(attempt: () => T | null | undefined | false, ms = 5000): Promise<T> {
  const end = performance.now() + ms;
  for (;;) {
    const got = attempt();
    if (got) return got;
    if (performance.now() > end) throw new Error(`nothing after ${ms} ms: ${attempt}`);
    await new Promise(resolve => setTimeout(resolve, 5));
  }
}

/** A shared WebAssembly memory of `pages` x 64 KiB, all of it there from the start; default 4 GiB. */
export function sharedMemory(pages = 65536): WasmMemory {
  return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
}

export function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes.slice());
}
