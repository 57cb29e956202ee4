/** An upgrade in the words of the command line, carried out on a running NIC. */
import type { Nic } from '../nic/nic.js';
import type { UpgradeReport, UpgradeWish } from '../observe/control/messages.js';
import type { PortHandle } from '../port/port.js';
import { device as parseDevice } from './device.js';
import { checkOffloads, offloads } from './offload.js';
import type { ServedPort } from './served-port.js';

/**
 * `hangUp` ends the conversation with the present hypervisor, if it comes back by itself. Rejects with UsageError for words that make no sense,
 * PortError and LinuxError for a port that can't be opened, NicError when the guest does not follow; then nothing has changed.
 */
export async function upgradeNic(
  nic: Nic,
  port: ServedPort,
  wish: UpgradeWish,
  hangUp: (() => Promise<void>) | undefined,
): Promise<UpgradeReport> {
  const device = wish.device === undefined ? undefined : parseDevice(wish.device);
  const features = wish.offload === undefined ? undefined : offloads(wish.offload);
  if (features !== undefined) checkOffloads(features, device ?? nic.device);
  const upgrade = (next?: PortHandle) =>
    nic.upgrade({
      ...(device && { device }),
      ...(features !== undefined && { features }),
      ...(wish.bufs !== undefined && { bufs: wish.bufs }),
      ...(wish.spin !== undefined && { spin: wish.spin }),
      ...(wish.timeout !== undefined && { timeoutMs: wish.timeout * 1000 }),
      ...(next && { port: next }),
      ...(hangUp && { hangUp: () => void hangUp() }),
    });
  return wish.port === undefined ? upgrade() : port.replace(wish.port, upgrade);
}
