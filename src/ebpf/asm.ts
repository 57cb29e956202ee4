/**
 * Assembly text → bytes, in the syntax of the public BPF conformance suite.
 *
 * ```
 *   mov %r0, 0                # comment
 *   jne %r1, 0x2a, exit       # `exit` names the first exit instruction; +N and -N count slots
 *   ldxw %r0, [%r1+4]
 *   lock fetch add [%r1+8], %r0
 *   call 5                    # a helper; also: call local LABEL, call runtime ID, call %r2
 * done:
 *   exit
 * ```
 * `add64` is another name of `add`, `bswap16` of `swap16`, `r0` of `%r0`. Registers up to r15 and any field combination that fits the syntax
 * are encoded as written, so that malformed programs can be made: `decodeProgram` is what checks.
 */
import { EbpfError } from './errors.js';
import { INSN_BYTES, SRC } from './isa.js';
import { MNEMONICS, type Mnemonic } from './mnemonics.js';

const BY_NAME = new Map(MNEMONICS.map(mnemonic => [mnemonic.name, mnemonic]));
for (const { name, operands, ...rest } of MNEMONICS) {
  if (operands === 'dst, value') BY_NAME.set(`${name}64`, { name, operands, ...rest });
}
BY_NAME.set('neg64', BY_NAME.get('neg')!);
for (const bits of [16, 32, 64]) BY_NAME.set(`bswap${bits}`, BY_NAME.get(`swap${bits}`)!);

/** An instruction with its jump still open. */
interface Draft {
  readonly line: number;
  readonly slot: number;
  opcode: number;
  dst: number;
  src: number;
  off: number;
  imm: number;
  high: number | null; // second slot of lddw
  jump: { target: string; field: 'off' | 'imm' } | null;
}

/**
 * Assembles a program.
 * @throws EbpfError `EBPF_ASM`, naming the line
 */
export function assemble(text: string): Uint8Array {
  const drafts: Draft[] = [];
  const labels = new Map<string, number>();
  let slot = 0;
  for (const [index, raw] of text.split('\n').entries()) {
    const line = index + 1;
    let rest = raw.replace(/#.*/, '').trim();
    for (let label: RegExpExecArray | null; (label = /^([A-Za-z_.][\w.]*):\s*/.exec(rest)); ) {
      if (labels.has(label[1]!)) throw asmError(line, `the label ${label[1]} is defined twice`);
      labels.set(label[1]!, slot);
      rest = rest.slice(label[0].length);
    }
    if (rest === '') continue;
    const draft = parseInsn(rest, line, slot);
    drafts.push(draft);
    slot += draft.high === null ? 1 : 2;
  }
  const firstExit = drafts.find(draft => draft.opcode === BY_NAME.get('exit')!.opcode);
  if (firstExit !== undefined && !labels.has('exit')) labels.set('exit', firstExit.slot);

  const bytes = new Uint8Array(slot * INSN_BYTES);
  const view = new DataView(bytes.buffer);
  for (const draft of drafts) {
    resolveJump(draft, labels);
    const at = draft.slot * INSN_BYTES;
    view.setUint8(at, draft.opcode);
    view.setUint8(at + 1, (draft.src << 4) | draft.dst);
    view.setInt16(at + 2, draft.off, true);
    view.setInt32(at + 4, draft.imm, true);
    if (draft.high !== null) view.setInt32(at + 12, draft.high, true);
  }
  return bytes;
}

function parseInsn(text: string, line: number, slot: number): Draft {
  const words = text.replace(/\[[^\]]*\]/g, memory => memory.replace(/\s+/g, '')).split(/[\s,]+/);
  const { mnemonic, operands } = findMnemonic(
    words.filter(word => word !== ''),
    line,
  );
  const shape = mnemonic.operands === 'none' ? [] : mnemonic.operands.split(', ');
  if (operands.length !== shape.length) {
    throw asmError(line, `${mnemonic.name} takes ${shape.length} operands, not ${operands.length}`);
  }
  const { opcode, src = 0, off = 0, imm = 0 } = mnemonic;
  const draft: Draft = { line, slot, opcode, dst: 0, src, off, imm, high: null, jump: null };
  for (const [index, kind] of shape.entries()) parseOperand(draft, kind, operands[index]!);
  return draft;
}

/** The longest name wins: `lock fetch add`, `call local`; a bare `call` means a helper or, of a register, callx. */
function findMnemonic(words: string[], line: number): { mnemonic: Mnemonic; operands: string[] } {
  for (let count = Math.min(3, words.length); count > 0; count--) {
    const mnemonic = BY_NAME.get(words.slice(0, count).join(' '));
    if (mnemonic === undefined) continue;
    const operands = words.slice(count);
    if (mnemonic.name === 'call helper' && isRegister(operands[0])) {
      return { mnemonic: BY_NAME.get('callx')!, operands };
    }
    return { mnemonic, operands };
  }
  if (words[0] === 'call') return findMnemonic(['call', 'helper', ...words.slice(1)], line);
  throw asmError(line, `there is no instruction ${words[0]}`);
}

function parseOperand(draft: Draft, kind: string, text: string): void {
  const { line } = draft;
  switch (kind) {
    case 'dst':
      draft.dst = parseRegister(text, line);
      break;
    case 'src':
      draft.src = parseRegister(text, line);
      break;
    case 'value':
      if (isRegister(text)) {
        draft.opcode |= SRC.X;
        draft.src = parseRegister(text, line);
      } else {
        draft.imm = parseImm32(text, line);
      }
      break;
    case 'imm':
      draft.imm = parseImm32(text, line);
      break;
    case 'imm64': {
      const value = parseInteger(text, line, -(2n ** 63n), 2n ** 64n - 1n);
      draft.imm = Number(BigInt.asIntN(32, value));
      draft.high = Number(BigInt.asIntN(32, value >> 32n));
      break;
    }
    case '[src+off]':
    case '[dst+off]': {
      const match = /^\[(%?r\d+)(?:\+?([+-].+))?\]$/.exec(text);
      if (match === null) throw asmError(line, `${text} is no memory operand such as [%r1+8]`);
      draft[kind === '[src+off]' ? 'src' : 'dst'] = parseRegister(match[1]!, line);
      draft.off = parseOff16(match[2] ?? '0', line);
      break;
    }
    case 'target':
      draft.jump = { target: text, field: 'off' };
      break;
    case 'target32':
      draft.jump = { target: text, field: 'imm' };
      break;
  }
}

function resolveJump(draft: Draft, labels: ReadonlyMap<string, number>): void {
  if (draft.jump === null) return;
  const { target, field } = draft.jump;
  if (/^[+-]/.test(target)) {
    draft[field] = field === 'off' ? parseOff16(target, draft.line) : parseImm32(target, draft.line);
    return;
  }
  const slot = labels.get(target);
  if (slot === undefined) throw asmError(draft.line, `there is no label ${target}`);
  const distance = slot - draft.slot - 1;
  if (field === 'off' && distance !== (distance << 16) >> 16)
    throw asmError(draft.line, `${target} is too far away`);
  draft[field] = distance;
}

function isRegister(text: string | undefined): boolean {
  return text !== undefined && /^%?r\d+$/.test(text);
}

function parseRegister(text: string, line: number): number {
  const number = isRegister(text) ? Number(text.replace(/^%?r/, '')) : Number.NaN;
  if (!(number <= 15)) throw asmError(line, `${text} is no register`);
  return number;
}

/** Keeps the low 32 bits, as the suite's assembler does: -1 and 0xffffffff are the same. */
function parseImm32(text: string, line: number): number {
  return Number(BigInt.asIntN(32, parseInteger(text, line, -(2n ** 63n), 2n ** 64n - 1n)));
}

function parseOff16(text: string, line: number): number {
  return (Number(parseInteger(text, line, -(2n ** 15n), 2n ** 16n - 1n)) << 16) >> 16;
}

function parseInteger(text: string, line: number, min: bigint, max: bigint): bigint {
  const match = /^([+-]?)(0[xX][0-9a-fA-F]+|\d+)$/.exec(text);
  if (match === null) throw asmError(line, `${text} is no number`);
  const value = match[1] === '-' ? -BigInt(match[2]!) : BigInt(match[2]!);
  if (value < min || value > max) throw asmError(line, `${text} does not fit the field`);
  return value;
}

function asmError(line: number, message: string): EbpfError {
  return new EbpfError('EBPF_ASM', `line ${line}: ${message}`);
}
