/**
 * The QEMU programs of this machine, and what each version can do with a NIC of ours.
 *
 * ```
 *   version   virtio-net over vhost-user                vfio-user-pci   to connect again
 *   7.2       without KVM: interrupts only by INTx      no              reconnect=1       (seconds)
 *   9.2                                                 no              reconnect-ms=200  (milliseconds)
 *   10.1                                                yes
 * ```
 * Without KVM, QEMU 7.2 dies of a null pointer when a guest turns MSI-X on for a vhost-user device; `vectors=0` keeps the guest from it.
 */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { VmError } from './errors.js';

export interface Qemu {
  /** What to run. */
  readonly path: string;
  readonly version: readonly [major: number, minor: number];
}

/** Where `npm run setup:system` puts a newer QEMU and a kernel. */
export function cacheFolder(): string {
  return process.env.POLYNIC_CACHE ?? '/var/cache/polynic';
}

/** A cloud kernel of Debian: its image, and the folder of its modules; null when `setup:system` has not fetched it. */
export function cachedKernel(): { image: string; modules: string } | null {
  const folder = join(cacheFolder(), 'kernel');
  const kernel = { image: join(folder, 'vmlinuz'), modules: join(folder, 'modules') };
  return existsSync(kernel.image) && existsSync(kernel.modules) ? kernel : null;
}

/** The newer QEMU that `setup:system` fetches; null when it has not. */
export function cachedQemu(): string | null {
  const path = join(cacheFolder(), 'qemu-11/bin/qemu-system-x86_64');
  return existsSync(path) ? path : null;
}

/** Asks a QEMU for its version. `path` may be a name in $PATH. Throws VmError VM_QEMU. */
export function findQemu(path = 'qemu-system-x86_64'): Qemu {
  const { stdout, stderr, error } = spawnSync(path, ['--version'], { encoding: 'utf8' });
  const missing = (error as NodeJS.ErrnoException | undefined)?.code === 'ENOENT';
  if (missing) throw new VmError('VM_QEMU', `no ${path}: install QEMU, or say where it is`);
  const [, major, minor] = /version (\d+)\.(\d+)/.exec(stdout ?? '') ?? [];
  if (!major || !minor) {
    const reason = error?.message ?? stderr.split('\n')[0];
    throw new VmError('VM_QEMU', `${path} does not say its version: ${reason || 'it is silent'}`);
  }
  return { path, version: [Number(major), Number(minor)] };
}

/** Whether it is this version or a later one. */
export function atLeast({ version: [major, minor] }: Qemu, wantMajor: number, wantMinor = 0): boolean {
  return major > wantMajor || (major === wantMajor && minor >= wantMinor);
}

/** Whether there is a vfio-user client in it. */
export function hasVfioUser(qemu: Qemu): boolean {
  return atLeast(qemu, 10, 1);
}

/** Whether a guest may use MSI-X with a vhost-user device; see above. */
export function allowsMsix(qemu: Qemu, accelerator: Accelerator): boolean {
  return accelerator === 'kvm' || atLeast(qemu, 8);
}

export type Accelerator = 'kvm' | 'tcg';

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

const found = new Map<QemuName, Qemu>();

/** Throws VmError VM_QEMU. */
export function qemuNamed(name: QemuName): Qemu {
  const known = found.get(name) ?? findQemu(name === '7.2' ? undefined : (cachedQemu() ?? 'qemu-11'));
  found.set(name, known);
  return known;
}
