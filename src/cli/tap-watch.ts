/** What becomes of a command's TAP while it runs: its owner sets it up and down, and may delete it. */
import { type LinkMonitor, monitorLink } from '../linux/link-monitor.js';
import { PortError, type PortHandle } from '../port/port.js';
import type { TapHandle } from '../port/tap.js';

/** The port as a TAP; null: it is none. */
export function asTap(port: PortHandle): TapHandle | null {
  return 'tap' in port ? (port as TapHandle) : null;
}

/**
 * Calls `onLink` with whether the interface is up, at once and after every change; and `onGone`, later and once, when it has been deleted. One
 * that was renamed or moved to another namespace can't be looked at and counts as down.
 */
export function watchTap(
  { tap, netns }: TapHandle,
  onLink: (up: boolean) => void,
  onGone: (error: PortError) => void,
): LinkMonitor {
  let gone = false;
  return monitorLink(tap.name, netns, link => {
    if (gone) return;
    gone = link === null && !tap.exists;
    if (gone) setImmediate(onGone, new PortError('PORT_GONE', `interface ${tap.name} was deleted`));
    else onLink(link?.up ?? false);
  });
}
