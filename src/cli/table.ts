/** Rows of words, below one another on a terminal. */
import { printable } from '../observe/control/messages.js';

/** `right`: the columns with numbers. What other processes said may be among the words. */
export function table(rows: readonly (readonly string[])[], right: readonly number[] = []): string {
  const clean = rows.map(row => row.map(word => printable(word).replaceAll('\n', ' ')));
  const widths = clean[0]!.map((_, column) => Math.max(...clean.map(row => row[column]!.length)));
  const pad = (word: string, column: number) =>
    right.includes(column) ? word.padStart(widths[column]!) : word.padEnd(widths[column]!);
  return clean.map(row => row.map(pad).join('  ').trimEnd()).join('\n');
}
