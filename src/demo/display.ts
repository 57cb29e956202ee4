/**
 * What the demo shows: a table whose rows come as the phases go. On a terminal the row of the phase under way is rewritten with live rates;
 * elsewhere each row is printed once, when it is complete.
 */
import type { Crossing } from './nic-pair.js';

const LIVE_MS = 250;
const CLEAR_LINE = '\r\x1b[2K';

export interface Output {
  write(text: string): unknown;
  readonly isTTY?: boolean;
}

export interface Display {
  line(text?: string): void;
  heading(): void;
  /** A row with nothing but a name and a result. */
  row(name: string, result: string): void;
  /** Shows `rate()` in the phase's row until the returned function is called with the final words. */
  phase(
    name: string,
    rate: () => string,
  ): (result: string, crossing?: Crossing & { seconds: number }) => void;
}

/** Shows nothing: for --json. */
export const silent: Display = { line: () => {}, heading: () => {}, row: () => {}, phase: () => () => {} };

export function tableOn(out: Output): Display {
  const line = (text = '') => void out.write(`${text}\n`);
  return {
    line,
    heading() {
      line(row('', '', ['packets', 'kicks', 'interrupts']));
      line(row('', '', ['/ second', '/ packet', '/ packet']));
    },
    row: (name, result) => line(row(name, result, [])),
    phase(name, rate) {
      const live = () => out.write(`${CLEAR_LINE}${row(name, rate(), [])}`);
      const timer = out.isTTY ? setInterval(live, LIVE_MS) : undefined;
      if (out.isTTY) live();
      return (result, crossing) => {
        clearInterval(timer);
        if (out.isTTY) out.write(CLEAR_LINE);
        const cells = crossing
          ? [
              thousands(crossing.packets / crossing.seconds),
              perPacket(crossing.kicksPerPacket),
              perPacket(crossing.interruptsPerPacket),
            ]
          : [];
        line(row(name, result, cells));
      };
    },
  };
}

/** From bytes a second. */
export function gbits(bytesPerSecond: number): string {
  return `${((bytesPerSecond * 8) / 1e9).toFixed(2)} Gbit/s`;
}

/** `86 us`, `2.7 ms` */
export function duration(microseconds: number): string {
  return microseconds < 1000 ? `${microseconds.toFixed(0)} us` : `${(microseconds / 1000).toFixed(1)} ms`;
}

/** `12 345`, `12.3 M` */
export function thousands(value: number): string {
  if (value >= 9_999_500) return `${(value / 1e6).toFixed(1)} M`;
  return Math.round(value)
    .toString()
    .replace(/\B(?=(\d{3})+$)/g, ' ');
}

function row(
  name: string,
  result: string,
  [packets = '', kicks = '', interrupts = '']: readonly string[],
): string {
  const text = `  ${name.padEnd(22)}${result.padEnd(28)}${packets.padStart(9)}${kicks.padStart(10)}${interrupts.padStart(12)}`;
  return text.trimEnd();
}

function perPacket(value: number): string {
  return value === 0 || value >= 0.0095 ? value.toFixed(2) : value.toPrecision(1);
}
