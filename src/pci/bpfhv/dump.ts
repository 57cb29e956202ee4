/** The text behind a device's dump registers: lines for people, with a NUL at the end, no longer than drivers take. */
import { STATUS } from '../../guest/bpfhv/registers.js';

/** Bytes at most, the NUL included: the Linux driver takes no more. */
export const MAX_DUMP = 4096;
const MORE = 'and more\n';

/** Lines that would make it too long are left out, and that shows. */
export function dumpText(lines: Iterable<string>): Buffer<ArrayBuffer> {
  let text = '';
  for (const line of lines) {
    if (Buffer.byteLength(`${text}${line}\n${MORE}`) >= MAX_DUMP) {
      text += MORE;
      break;
    }
    text += `${line}\n`;
  }
  return Buffer.from(`${text}\0`);
}

/** STATUS as the driver reads it, and feature bits. */
export function statusLine(status: number, features: bigint): string {
  const words = Object.entries(STATUS).flatMap(([name, bit]) => ((status & bit) === 0 ? [] : name));
  return `status ${words.join(' ').toLowerCase() || 'none'}, features 0x${features.toString(16)}`;
}
