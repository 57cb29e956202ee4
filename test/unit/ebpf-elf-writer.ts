/** Writes small ELF objects as clang would for BPF, with every field open to be spoilt. */

export interface SectionPlan {
  readonly name: string;
  readonly type: number;
  readonly bytes: Uint8Array;
  readonly flags?: number;
  readonly link?: number;
  readonly info?: number;
  readonly entrySize?: number;
}

export interface SymbolPlan {
  readonly name: string;
  readonly section: number;
  readonly value?: number;
}

export interface RelocationPlan {
  readonly offset: number;
  readonly type: number;
  readonly symbol: number;
}

const HEADER = 64;

/**
 * ```
 *   header │ sections' bytes, 8-aligned │ .strtab │ section headers
 * ```
 * Section 0 is the null section, so the first planned one is section 1; the string table comes last.
 */
export function writeObject(plans: readonly SectionPlan[], symbols: readonly SymbolPlan[] = []): Uint8Array {
  let strings = '\0';
  const nameAt = (name: string) => {
    const at = strings.length;
    strings += `${name}\0`;
    return at;
  };
  const symbolTable = symbols.length === 0 ? [] : [symbolSection(symbols, nameAt, plans.length + 2)];
  const sections = [...plans, ...symbolTable];
  const headers = sections.map(section => ({ ...section, nameAt: nameAt(section.name) }));
  const stringsNameAt = nameAt('.strtab');
  headers.push({ name: '.strtab', type: 3, bytes: new TextEncoder().encode(strings), nameAt: stringsNameAt });

  const length = headers.reduce((end, { bytes }) => align(end) + bytes.length, HEADER);
  const table = align(length);
  const file = new Uint8Array(table + (headers.length + 1) * 64);
  const view = new DataView(file.buffer);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 1, true); // relocatable
  view.setUint16(18, 247, true);
  view.setUint32(20, 1, true);
  view.setBigUint64(40, BigInt(table), true);
  view.setUint16(52, HEADER, true);
  view.setUint16(58, 64, true);
  view.setUint16(60, headers.length + 1, true);
  view.setUint16(62, headers.length, true);
  let offset = HEADER;
  for (const [index, section] of headers.entries()) {
    offset = align(offset);
    file.set(section.bytes, offset);
    const at = headerAt(file, index + 1);
    view.setUint32(at, section.nameAt, true);
    view.setUint32(at + 4, section.type, true);
    view.setBigUint64(at + 8, BigInt(section.flags ?? 0), true);
    view.setBigUint64(at + 24, BigInt(offset), true);
    view.setBigUint64(at + 32, BigInt(section.bytes.length), true);
    view.setUint32(at + 40, section.link ?? 0, true);
    view.setUint32(at + 44, section.info ?? 0, true);
    view.setBigUint64(at + 56, BigInt(section.entrySize ?? 0), true);
    offset += section.bytes.length;
  }
  return file;
}

/** Where in the file the header of a section starts. */
export function headerAt(file: Uint8Array, section: number): number {
  return Number(new DataView(file.buffer).getBigUint64(40, true)) + section * 64;
}

export function code(name: string, bytes: Uint8Array): SectionPlan {
  return { name, type: 1, flags: 6, bytes };
}

/** Relocations of section `info`, whose symbols are in section `link`. */
export function rel(
  name: string,
  link: number,
  info: number,
  entries: readonly RelocationPlan[],
): SectionPlan {
  const bytes = new Uint8Array(entries.length * 16);
  const view = new DataView(bytes.buffer);
  for (const [index, { offset, type, symbol }] of entries.entries()) {
    view.setBigUint64(index * 16, BigInt(offset), true);
    view.setUint32(index * 16 + 8, type, true);
    view.setUint32(index * 16 + 12, symbol, true);
  }
  return { name, type: 9, flags: 0x40, bytes, link, info, entrySize: 16 };
}

function symbolSection(
  symbols: readonly SymbolPlan[],
  nameAt: (name: string) => number,
  stringTable: number,
): SectionPlan {
  const bytes = new Uint8Array((symbols.length + 1) * 24); // symbol 0 is none
  const view = new DataView(bytes.buffer);
  for (const [index, { name, section, value = 0 }] of symbols.entries()) {
    const at = (index + 1) * 24;
    view.setUint32(at, name === '' ? 0 : nameAt(name), true);
    view.setUint8(at + 4, 0x12);
    view.setUint16(at + 6, section, true);
    view.setBigUint64(at + 8, BigInt(value), true);
  }
  return { name: '.symtab', type: 2, bytes, link: stringTable, entrySize: 24 };
}

function align(offset: number): number {
  return (offset + 7) & ~7;
}
