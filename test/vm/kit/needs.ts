/** What virtual machines need of this machine, and the tests that are skipped, with the reason, where it lacks. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { countProcessFds, openFds } from '../../../src/linux/fd.js';
import { BUSYBOX } from '../../../src/vm/image.js';
import { cachedKernel, hasVfioUser, type QemuName, qemuNamed } from '../../../src/vm/qemu.js';
import { cannot } from '../../link/harness.js';

/** `npm run test:vm` asks for everything, `npm test` for a few. */
export const LONG = process.env.POLYNIC_LONG === 'vm';

export const QEMUS: readonly QemuName[] = ['7.2', '11.1'];

export interface Needs {
  /** The QEMU has a vfio-user client. */
  readonly vfioUser?: boolean;
}

/** Why a guest can't be had here; null: it can. */
export function cannotBoot(name: QemuName, { vfioUser = false }: Needs = {}): string | null {
  if (!cachedKernel()) return "needs Debian's cloud kernel: npm run setup:system";
  if (!existsSync(BUSYBOX)) return 'needs busybox-static: npm run setup:system';
  try {
    const qemu = qemuNamed(name);
    if (vfioUser && !hasVfioUser(qemu)) return `QEMU ${qemu.version.join('.')} has no vfio-user`;
  } catch (error) {
    return `${(error as Error).message}: npm run setup:system`;
  }
  return cannot();
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
