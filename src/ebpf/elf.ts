/**
 * Reads the programs out of an ELF object as clang writes it for BPF: one section per program, chosen by name.
 *
 * ```
 *   ELF header ──► section headers ──┬─ PROGBITS + EXECINSTR   a program, e.g. `txp`; `.text` holds shared functions
 *                                    ├─ REL of such a section  calls to link: R_BPF_64_32
 *                                    ├─ SYMTAB ──► STRTAB      what the relocations point at
 *                                    └─ all others             debug information, licence: ignored
 * ```
 * Calls between sections are linked by appending the callee's section to the caller's. There are no maps and no data:
 * a relocation that asks for either is refused.
 *
 * The file is hostile until proven otherwise. Every offset is checked against the file before it is followed; the work is bounded by
 * the limits below. Layout: System V ABI, chapter 4 (ELF-64); relocations: LLVM's description of the BPF target.
 */
import { EbpfError } from './errors.js';
import { CALL_OPCODE } from './forms.js';
import { CALL, INSN_BYTES } from './isa.js';
import { DEFAULT_MAX_SLOTS } from './program.js';

const HEADER_BYTES = 64;
const SECTION_HEADER_BYTES = 64;
const SYMBOL_BYTES = 24;
const RELOCATION_BYTES = 16;
const ET_REL = 1;
const EM_BPF = 247;
const SHT = { NULL: 0, PROGBITS: 1, SYMTAB: 2, STRTAB: 3, RELA: 4, NOBITS: 8, REL: 9 } as const;
const SHF_EXECINSTR = 4;
const R_BPF_64_64 = 1;
const R_BPF_64_32 = 10;
const MAX_NAME = 256;

export interface ElfLimits {
  /** Bytes of the file. Default 4 MiB. */
  readonly maxBytes?: number;
  /** Section headers. Default 256. */
  readonly maxSections?: number;
  /** Slots of one program, callees included. Default 16384. */
  readonly maxSlots?: number;
  /**
   * Only these sections are programs; of others nothing is linked that they do not call, so what those ask for does not matter.
   * Default: every section with code.
   */
  readonly sections?: ReadonlySet<string>;
}

export interface ElfObject {
  /** Bytecode by section name, in file order, calls linked. */
  readonly programs: ReadonlyMap<string, Uint8Array>;
  /** Relocations that were applied, counted once per relocation in the file. */
  readonly relocations: number;
}

interface Section {
  readonly index: number;
  readonly name: string;
  readonly type: number;
  readonly flags: bigint;
  readonly offset: number;
  readonly size: number;
  readonly link: number;
  readonly info: number;
  readonly entrySize: number;
}

/** A call whose target is known: from a slot of one section to a slot of another or the same. */
interface Call {
  readonly slot: number;
  readonly section: Section;
  readonly target: number;
}

/**
 * Reads all programs of an object file.
 * @throws EbpfError `EBPF_ELF` (not such a file, or malformed), `EBPF_ELF_LIMIT`, `EBPF_RELOCATION` (asks for what does not exist)
 */
export function loadObject(file: Uint8Array, limits: ElfLimits = {}): ElfObject {
  return new Loader(file, limits).load();
}

/** Whether a file starts as an ELF file does. */
export function isElf(file: Uint8Array): boolean {
  return file.length >= 4 && file[0] === 0x7f && file[1] === 0x45 && file[2] === 0x4c && file[3] === 0x46;
}

class Loader {
  readonly #file: Uint8Array;
  readonly #view: DataView;
  readonly #maxSections: number;
  readonly #maxSlots: number;
  readonly #wanted: ReadonlySet<string> | undefined;
  #sections: Section[] = [];
  /** Sections of relocations by the index of the code that they relocate, and the calls that they stand for once they were asked for. */
  #relocations = new Map<number, Section>();
  readonly #calls = new Map<number, Call[]>();

  constructor(file: Uint8Array, limits: ElfLimits) {
    const maxBytes = limits.maxBytes ?? 4 << 20;
    if (file.length > maxBytes)
      throw limit(`the file has ${file.length} bytes, at most ${maxBytes} are taken`);
    this.#file = file;
    this.#view = new DataView(file.buffer, file.byteOffset, file.byteLength);
    this.#maxSections = limits.maxSections ?? 256;
    this.#maxSlots = limits.maxSlots ?? DEFAULT_MAX_SLOTS;
    this.#wanted = limits.sections;
  }

  load(): ElfObject {
    this.#sections = this.#readSections();
    this.#checkNames();
    this.#checkOverlap();
    const code = this.#sections.filter(isCode);
    for (const section of code) {
      if (section.size % INSN_BYTES !== 0)
        throw malformed(`section ${section.name} is no whole number of instructions`);
      if (section.size / INSN_BYTES > this.#maxSlots) throw tooLong(section.name, this.#maxSlots);
    }
    this.#relocations = this.#findRelocations();
    const entries = code.filter(({ name }) => this.#wanted?.has(name) ?? true);
    const programs = new Map(entries.map(section => [section.name, this.#link(section)]));
    return { programs, relocations: [...this.#calls.values()].reduce((sum, list) => sum + list.length, 0) };
  }

  #readSections(): Section[] {
    const file = this.#file;
    const view = this.#view;
    if (!isElf(file)) throw malformed('this is no ELF file');
    if (file.length < HEADER_BYTES) throw malformed('the header is cut off');
    if (file[4] !== 2) throw malformed('not a 64-bit object');
    if (file[5] !== 1) throw malformed('not little-endian');
    if (file[6] !== 1 || view.getUint32(20, true) !== 1) throw malformed('unknown ELF version');
    if (view.getUint16(16, true) !== ET_REL) throw malformed('not a relocatable object');
    const machine = view.getUint16(18, true);
    if (machine !== EM_BPF) throw malformed(`made for machine ${machine}, not for BPF (${EM_BPF})`);
    const count = view.getUint16(60, true);
    const namesIndex = view.getUint16(62, true);
    if (count === 0) throw malformed('there are no sections');
    if (count > this.#maxSections) throw limit(`${count} sections, at most ${this.#maxSections} are taken`);
    if (view.getUint16(58, true) !== SECTION_HEADER_BYTES)
      throw malformed('section headers of an unknown size');
    const table = this.#range(
      view.getBigUint64(40, true),
      BigInt(count * SECTION_HEADER_BYTES),
      'the section headers',
    );
    if (namesIndex >= count) throw malformed('the section of names does not exist');

    const raw = Array.from({ length: count }, (_, index) =>
      this.#readHeader(table + index * SECTION_HEADER_BYTES, index),
    );
    const names = raw[namesIndex]!;
    if (names.type !== SHT.STRTAB) throw malformed('the section of names is no string table');
    return raw.map(({ nameAt, ...section }) => ({
      ...section,
      name: section.type === SHT.NULL ? '' : this.#string(names, nameAt),
    }));
  }

  #readHeader(at: number, index: number): Section & { nameAt: number } {
    const view = this.#view;
    const type = view.getUint32(at + 4, true);
    const hasBytes = type !== SHT.NULL && type !== SHT.NOBITS;
    const bytes = view.getBigUint64(at + 32, true);
    return {
      index,
      name: '',
      nameAt: view.getUint32(at, true),
      type,
      flags: view.getBigUint64(at + 8, true),
      offset: hasBytes ? this.#range(view.getBigUint64(at + 24, true), bytes, `section ${index}`) : 0,
      size: hasBytes ? Number(bytes) : 0,
      link: view.getUint32(at + 40, true),
      info: view.getUint32(at + 44, true),
      entrySize: Number(view.getBigUint64(at + 56, true)),
    };
  }

  #checkNames(): void {
    const seen = new Set<string>();
    for (const { name, type } of this.#sections) {
      if (type === SHT.NULL) continue;
      if (seen.has(name)) throw malformed(`there are two sections ${name}`);
      seen.add(name);
    }
  }

  /** No byte belongs to two sections, nor to a section and a header. */
  #checkOverlap(): void {
    const headers = Number(this.#view.getBigUint64(40, true));
    const ranges = [
      { name: 'the header', offset: 0, size: HEADER_BYTES },
      { name: 'the section headers', offset: headers, size: this.#sections.length * SECTION_HEADER_BYTES },
      ...this.#sections.filter(({ size }) => size > 0),
    ].sort((a, b) => a.offset - b.offset);
    for (let i = 1; i < ranges.length; i++) {
      const [before, after] = [ranges[i - 1]!, ranges[i]!];
      if (after.offset < before.offset + before.size)
        throw malformed(`${after.name} overlaps ${before.name}`);
    }
  }

  #findRelocations(): Map<number, Section> {
    const found = new Map<number, Section>();
    for (const section of this.#sections) {
      if (section.type !== SHT.REL && section.type !== SHT.RELA) continue;
      const target = this.#sections[section.info];
      if (target === undefined)
        throw malformed(`section ${section.name} relocates a section that does not exist`);
      if (!isCode(target)) continue;
      if (section.type === SHT.RELA)
        throw malformed(`section ${section.name}: BPF relocations carry no addend (RELA)`);
      if (found.has(target.index)) throw malformed(`section ${target.name} has two sections of relocations`);
      found.set(target.index, section);
    }
    return found;
  }

  /** The calls out of a section of code, and within it, that relocations stand for. */
  #callsOf(code: Section): readonly Call[] {
    const relocations = this.#relocations.get(code.index);
    if (!relocations) return [];
    let calls = this.#calls.get(code.index);
    if (!calls) this.#calls.set(code.index, (calls = this.#readRelocations(relocations, code)));
    return calls;
  }

  #readRelocations(section: Section, target: Section): Call[] {
    const symbols = this.#sections[section.link];
    if (symbols?.type !== SHT.SYMTAB || symbols.entrySize !== SYMBOL_BYTES) {
      throw malformed(`section ${section.name} has no symbol table`);
    }
    if (section.entrySize !== RELOCATION_BYTES || section.size % RELOCATION_BYTES !== 0) {
      throw malformed(`section ${section.name} has entries of an unknown size`);
    }
    const count = section.size / RELOCATION_BYTES;
    const slots = target.size / INSN_BYTES;
    if (count > slots) throw malformed(`section ${section.name} has more relocations than instructions`);
    const relocated = new Set<number>();
    return Array.from({ length: count }, (_, index) => {
      const call = this.#readRelocation(section.offset + index * RELOCATION_BYTES, symbols, target);
      if (relocated.has(call.slot))
        throw malformed(`section ${section.name} relocates instruction ${call.slot} twice`);
      relocated.add(call.slot);
      return call;
    });
  }

  #readRelocation(at: number, symbols: Section, code: Section): Call {
    const view = this.#view;
    const offset = view.getBigUint64(at, true);
    const type = view.getUint32(at + 8, true);
    const symbolIndex = view.getUint32(at + 12, true);
    if (offset % BigInt(INSN_BYTES) !== 0n || offset >= BigInt(code.size)) {
      throw malformed(`a relocation of ${code.name} lies outside it`);
    }
    const slot = Number(offset) / INSN_BYTES;
    const where = `section ${code.name}`;
    if (symbolIndex >= Math.floor(symbols.size / SYMBOL_BYTES))
      throw malformed(`${where}: the symbol does not exist`, slot);
    const symbol = symbols.offset + symbolIndex * SYMBOL_BYTES;
    const section = this.#sections[view.getUint16(symbol + 6, true)];
    const value = view.getBigUint64(symbol + 8, true);
    const name = this.#symbolName(symbols, symbol) || section?.name || 'a symbol';

    if (type === R_BPF_64_64) {
      throw new EbpfError(
        'EBPF_RELOCATION',
        `${where}: needs the map or variable ${name}, but programs have no data`,
        slot,
      );
    }
    if (type !== R_BPF_64_32)
      throw new EbpfError('EBPF_RELOCATION', `${where}: unknown relocation ${type}`, slot);
    if (section === undefined || section.type === SHT.NULL || !isCode(section)) {
      throw new EbpfError('EBPF_RELOCATION', `${where}: calls ${name}, which is not in this object`, slot);
    }
    const insn = code.offset + slot * INSN_BYTES;
    if (view.getUint8(insn) !== CALL_OPCODE || view.getUint8(insn + 1) >> 4 !== CALL.LOCAL) {
      throw malformed(`${where}: a call is relocated, but there is none`, slot);
    }
    // The imm counts from the symbol: -1 for the symbol itself, slot - 1 for a slot relative to a section symbol.
    const target = value / BigInt(INSN_BYTES) + BigInt(view.getInt32(insn + 4, true)) + 1n;
    if (value % BigInt(INSN_BYTES) !== 0n || target < 0n || target >= BigInt(section.size / INSN_BYTES)) {
      throw malformed(`${where}: calls ${name} outside its section`, slot);
    }
    return { slot, section, target: Number(target) };
  }

  /** The section's code followed by that of all sections it calls, directly or not, each once. */
  #link(entry: Section): Uint8Array {
    const starts = new Map<Section, number>([[entry, 0]]); // insertion order = order in the result
    let slots = entry.size / INSN_BYTES;
    for (const [section] of starts) {
      for (const call of this.#callsOf(section)) {
        if (starts.has(call.section)) continue;
        starts.set(call.section, slots);
        slots += call.section.size / INSN_BYTES;
        if (slots > this.#maxSlots) throw tooLong(entry.name, this.#maxSlots);
      }
    }
    const bytes = new Uint8Array(slots * INSN_BYTES);
    const view = new DataView(bytes.buffer);
    for (const [section, start] of starts) {
      bytes.set(this.#file.subarray(section.offset, section.offset + section.size), start * INSN_BYTES);
      for (const call of this.#callsOf(section)) {
        const slot = start + call.slot;
        view.setInt32(slot * INSN_BYTES + 4, starts.get(call.section)! + call.target - slot - 1, true);
      }
    }
    return bytes;
  }

  /** Checks a range of the file and gives its offset as a number. */
  #range(offset: bigint, size: bigint, what: string): number {
    if (offset + size > BigInt(this.#file.length)) throw malformed(`${what} lies outside the file`);
    return Number(offset);
  }

  #symbolName(symbols: Section, symbol: number): string {
    const strings = this.#sections[symbols.link];
    return strings?.type === SHT.STRTAB ? this.#string(strings, this.#view.getUint32(symbol, true)) : '';
  }

  #string(table: Section, at: number): string {
    const bytes = this.#file.subarray(table.offset + Math.min(at, table.size), table.offset + table.size);
    const end = bytes.subarray(0, MAX_NAME + 1).indexOf(0);
    if (end < 0) throw malformed('a name has no end, or more than 256 characters');
    const text = new TextDecoder().decode(bytes.subarray(0, end));
    if (/\p{Cc}/u.test(text)) throw malformed('a name has control characters');
    return text;
  }
}

function isCode({ type, flags, size }: Section): boolean {
  return type === SHT.PROGBITS && (flags & BigInt(SHF_EXECINSTR)) !== 0n && size > 0;
}

function malformed(message: string, slot: number | null = null): EbpfError {
  return new EbpfError('EBPF_ELF', message, slot);
}

function limit(message: string): EbpfError {
  return new EbpfError('EBPF_ELF_LIMIT', message);
}

function tooLong(name: string, maxSlots: number): EbpfError {
  return limit(`program ${name} is longer than ${maxSlots} slots`);
}
