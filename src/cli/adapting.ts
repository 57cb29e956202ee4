/** `serve --adaptive`: looks at the NIC's counters every second, and changes what the traffic asks for. */
import { Adaptive, type AdaptiveLimits, type Moved, SEGMENTING } from '../nic/adaptive.js';
import type { Direction } from '../nic/control.js';
import { NicError } from '../nic/control.js';
import type { Nic } from '../nic/nic.js';
import { isLarge, offloadsOf } from '../ring/features.js';
import { deviceType } from '../ring/registry.js';
import type { Log } from './log.js';
import { total } from './stats.js';

const LOOK_MS = 1000;

export interface AdaptingOptions {
  readonly nic: Nic;
  readonly log: Log;
  /** Processors that there are. */
  readonly processors: number;
  /** Between two looks; default 1 s. */
  readonly lookMs?: number;
  readonly limits?: Partial<AdaptiveLimits>;
}

/** Begins; the returned function ends it, and resolves when no change is under way any more. */
export function keepAdapting({
  nic,
  log,
  processors,
  lookMs = LOOK_MS,
  limits = {},
}: AdaptingOptions): () => Promise<void> {
  const adaptive = new Adaptive(processors, limits);
  let before = { at: performance.now(), rx: moved(nic, 'rx'), tx: moved(nic, 'tx') };
  let work = Promise.resolve();
  let busy = false;

  const look = async (): Promise<void> => {
    const now = { at: performance.now(), rx: moved(nic, 'rx'), tx: moved(nic, 'tx') };
    const advice = adaptive.advise({
      at: now.at,
      elapsed: now.at - before.at,
      rx: since(before.rx, now.rx),
      tx: since(before.tx, now.tx),
      segments: segmentsOf(nic.offering(deviceType(SEGMENTING)!)),
      device: nic.device.name,
      spin: nic.spin,
    });
    before = now;
    if (!advice) return;
    log('warn', `adaptive: ${advice.reason}`);
    const device = advice.device === undefined ? undefined : deviceType(advice.device)!;
    try {
      await nic.upgrade({
        ...(device && { device }),
        ...(advice.spin !== undefined && { spin: advice.spin }),
      });
      adaptive.changed(performance.now());
      if (!device || device.name !== SEGMENTING || isOfUse(nic.agreed)) return;
      log('warn', `adaptive: the guest wants no large frames`);
      adaptive.declined(device.name, performance.now());
    } catch (error) {
      if (!(error instanceof NicError)) throw error;
      log('warn', `adaptive: stays as it is: ${error.message}`);
      if (device && error.code !== 'NIC_UPGRADE_BUSY') adaptive.declined(device.name, performance.now());
    }
  };

  const timer = setInterval(() => {
    if (busy || !nic.running) return; // nothing moves, or a change is under way
    busy = true;
    work = look()
      .catch(error => log('error', `adaptive: ${(error as Error).message}`))
      .finally(() => {
        busy = false;
      });
  }, lookMs);
  return () => {
    clearInterval(timer);
    return work;
  };
}

/** In which directions, seen from the guest, these features let frames be large. */
function segmentsOf(features: bigint): Readonly<Record<Direction, boolean>> {
  return { rx: isLarge(offloadsOf(features, 'rx')), tx: isLarge(offloadsOf(features, 'tx')) };
}

function isOfUse(agreed: bigint): boolean {
  const { rx, tx } = segmentsOf(agreed);
  return rx || tx;
}

function moved(nic: Nic, direction: Direction): Moved {
  return total(nic.stats().queues, direction);
}

function since(before: Moved, now: Moved): Moved {
  return {
    packets: Math.max(0, now.packets - before.packets),
    bytes: Math.max(0, now.bytes - before.bytes),
  };
}
