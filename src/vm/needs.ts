/** What a guest that boots from nothing (vm.ts) needs of this machine. */
import { existsSync } from 'node:fs';
import { BUSYBOX } from './image.js';
import { cachedKernel, hasVfioUser, type QemuName, qemuNamed } from './qemu.js';

export interface Needs {
  /** The QEMU has a vfio-user client. */
  readonly vfioUser?: boolean;
}

/** What is missing for a guest on this QEMU, and how to get it; null: nothing. */
export function missingFor(name: QemuName, { vfioUser = false }: Needs = {}): string | null {
  if (!cachedKernel()) return "needs Debian's cloud kernel: npm run setup:system";
  if (!existsSync(BUSYBOX)) return 'needs busybox-static: npm run setup:system';
  try {
    const qemu = qemuNamed(name);
    if (vfioUser && !hasVfioUser(qemu)) return `QEMU ${qemu.version.join('.')} has no vfio-user`;
  } catch (error) {
    return `${(error as Error).message}: npm run setup:system`;
  }
  return null;
}
