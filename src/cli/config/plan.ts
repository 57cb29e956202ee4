/**
 * What has to be done for the NICs that there are to become those of the file, in this order:
 *
 * ```
 *   close    those that are not in the file any more, and those that are opened anew below
 *   change   what a NIC can change under its running guest
 *   open     new ones, and those that differ in something else
 * ```
 * Who is in none of the three is not touched.
 */
import type { UpgradeWish } from '../../observe/control/messages.js';
import type { FileNic } from './nics.js';

export interface Plan {
  readonly close: readonly FileNic[];
  readonly change: readonly Change[];
  readonly open: readonly FileNic[];
}

export interface Change {
  readonly to: FileNic;
  readonly wish: UpgradeWish;
}

/** What can change under a guest, and what it is when the file does not say. */
const LIVE = { device: 'sring', offload: 'all', port: '', spin: false } as const;
/** A virtio ring's format and offloads are the guest's driver's. */
const VIRTIO_LIVE: ReadonlySet<string> = new Set(['port', 'spin']);

export function plan(present: readonly FileNic[], wanted: readonly FileNic[]): Plan {
  const before = new Map(present.map(nic => [nic.name, nic]));
  const names = new Set(wanted.map(({ name }) => name));
  const close = present.filter(({ name }) => !names.has(name));
  const open: FileNic[] = [];
  const change: Change[] = [];
  /** Who has what until it changes. */
  const holders = new Map(present.flatMap(nic => nic.claims.map(claim => [claim, nic.name] as const)));
  for (const [claim, holder] of holders) if (!names.has(holder)) holders.delete(claim);

  for (const to of wanted) {
    const from = before.get(to.name);
    const wish = from && difference(from, to);
    if (wish && Object.keys(wish).length === 0) continue;
    // Two that swap what only one can have: the first lets go of it before the second changes.
    const waits = to.claims.some(claim => (holders.get(claim) ?? to.name) !== to.name);
    if (wish && !waits) {
      change.push({ to, wish });
      continue;
    }
    open.push(to);
    if (!from) continue;
    close.push(from);
    for (const claim of from.claims) holders.delete(claim);
  }
  return { close, change, open };
}

/** What is to change under the guest; nothing: they are alike. Null: the NIC has to be opened anew. */
function difference(from: FileNic, to: FileNic): UpgradeWish | null {
  const keys = new Set([...from.settings.keys(), ...to.settings.keys()]);
  const changed = [...keys].filter(key => setting(from, key) !== setting(to, key));
  const live = changed.every(
    key => key in LIVE && (!to.options.kind.startsWith('virtio') || VIRTIO_LIVE.has(key)),
  );
  if (!live || from.process !== to.process) return null;
  return Object.fromEntries(changed.map(key => [key, setting(to, key)]));
}

function setting({ settings }: FileNic, key: string): string | boolean {
  return settings.get(key) ?? (key in LIVE ? LIVE[key as keyof typeof LIVE] : false);
}
