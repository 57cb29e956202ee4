/**
 * A guest's driver as text, for people: its view of every queue, and behind it the device's own, which comes through the registers:
 *
 * ```
 *   CTRL.QUEUES_DUMP ─► DUMP_LEN ─► (DUMP_OFS, DUMP_INPUT) four bytes at a time ─► text up to its NUL
 * ```
 */
import * as L from '../../../datapath/layout.js';
import type { Window } from '../../memory/window.js';
import { counterLine } from '../../nic/dump.js';
import { readStats } from '../../nic/queue.js';
import { faultName } from '../../ring/dump.js';
import type { OwnQueue } from './contract.js';
import { CTRL, REG } from './registers.js';
import type { BpfhvTransport } from './transport.js';

/** Bytes of a device's dump at most, its NUL included. */
const MAX_DUMP = 4096;

/** Lines, the last one without an end. */
export async function dumpDriver(
  window: Window,
  transport: BpfhvTransport,
  state: string,
  queues: readonly OwnQueue[],
): Promise<string> {
  const own = queues.map(queue => dumpQueue(window, transport, queue));
  const device = (await readDeviceDump(transport)).split('\n').map(line => `  ${line}`);
  return [`driver ${state}`, ...own, 'device, by its registers', ...device].join('\n');
}

/** What the device says of its queues, without anything that a terminal would act on. Never rejects: a device may be gone at any time. */
export async function readDeviceDump(transport: BpfhvTransport): Promise<string> {
  if (!transport.present) return 'there is none';
  try {
    await transport.write(REG.CTRL, CTRL.QUEUES_DUMP);
    const length = await transport.read(REG.DUMP_LEN);
    if (length === 0 || length > MAX_DUMP)
      return `says that its dump has ${length} bytes: 1 to ${MAX_DUMP} can be`;
    const words = new Uint32Array(Math.ceil(length / 4));
    for (let i = 0; i < words.length; i++) {
      await transport.write(REG.DUMP_OFS, 4 * i);
      words[i] = await transport.read(REG.DUMP_INPUT);
    }
    const text = new TextDecoder('latin1').decode(new Uint8Array(words.buffer, 0, length));
    return text
      .replace(/\0.*$/s, '')
      .replace(/[^\x20-\x7e\n]/g, '?')
      .trimEnd();
  } catch (error) {
    return `did not answer: ${(error as Error).message}`;
  }
}

function dumpQueue(window: Window, { ram }: BpfhvTransport, queue: OwnQueue): string {
  const { index, direction, address, buffers, context } = queue;
  const at = (field: number) => window.words[(address + field) >>> 2]!;
  const where = `context 0x${ram.toGuest(context).toString(16)}`;
  const state = `posted ${at(L.DRIVER_POSTED)}, free ${at(L.DRIVER_FREE_COUNT)}, fault ${faultName(at(L.DRIVER_FAULT))}`;
  return [
    `queue ${index} ${direction}: ${buffers} buffers, ${where}, ${state}`,
    `  counted ${counterLine(readStats(window, address + L.DRIVER_STATS))}`,
  ].join('\n');
}
