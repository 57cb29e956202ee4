/** What virtual machines need of this machine, and the tests that are skipped, with the reason, where it lacks. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { countProcessFds, openFds } from '../../../src/linux/fd.js';
import { cachedKernel, cachedQemu, findQemu, hasVfioUser, type Qemu } from '../../../src/vm/qemu.js';
import { cannot } from '../../link/harness.js';
import { BUSYBOX } from './image.js';

/**
 * Two QEMUs, by the versions that this was written with. 7.2 stands for the one of this release, in $PATH; 11.1 for the newer one in the cache.
 *
 * ```
 *                            7.2                         11.1
 *   vhost-user               yes; MSI-X only with KVM    yes
 *   vfio-user                no                          yes
 *   migration, hot-plug      yes                         yes
 *   state of the backend     no                          yes (DEVICE_STATE)
 * ```
 */
export type QemuName = '7.2' | '11.1';

/** `npm run test:vm` asks for everything, `npm test` for a few. */
export const LONG = process.env.POLYNIC_LONG === 'vm';

export const QEMUS: readonly QemuName[] = ['7.2', '11.1'];

const found = new Map<QemuName, Qemu>();

export function qemuNamed(name: QemuName): Qemu {
  const known = found.get(name) ?? findQemu(name === '7.2' ? undefined : (cachedQemu() ?? 'qemu-11'));
  found.set(name, known);
  return known;
}

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
