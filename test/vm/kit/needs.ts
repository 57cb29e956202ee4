/** What virtual machines need of this machine, and the tests that are skipped, with the reason, where it lacks. */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { countProcessFds, openFds } from '../../../src/linux/fd.js';
import { missingFor, type Needs } from '../../../src/vm/needs.js';
import type { QemuName } from '../../../src/vm/qemu.js';
import { cannot } from '../../link/harness.js';

/** `npm run test:vm` asks for everything, `npm test` for a few. */
export const LONG = process.env.POLYNIC_LONG === 'vm';

export const QEMUS: readonly QemuName[] = ['7.2', '11.1'];

/** Why a guest can't be had here; null: it can. */
export function cannotBoot(name: QemuName, needs: Needs = {}): string | null {
  return missingFor(name, needs) ?? cannot();
}

/** Booting, on a machine that others use as well, takes its time. */
const LIMIT_MS = 600_000;

/** A test with virtual machines of one QEMU; skipped, with the reason, where they can't be had. Nothing may be left open at its end. */
export function vmTest(
  name: string,
  qemu: QemuName,
  body: (t: TestContext) => Promise<void>,
  needs: Needs = {},
): void {
  test(`${name} (QEMU ${qemu})`, { timeout: LIMIT_MS }, async t => {
    const why = cannotBoot(qemu, needs);
    if (why) return t.skip(why);
    const before = { fds: openFds(), all: countProcessFds() };
    await body(t);
    assert.deepEqual(openFds(), before.fds, 'descriptors left open');
    assert.ok(countProcessFds() <= before.all, 'descriptors left open behind the table');
  });
}
