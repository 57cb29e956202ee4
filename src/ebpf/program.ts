/**
 * Bytes → a program whose every instruction is well formed. What comes out needs no further look at encodings:
 * each opcode exists, each register is one of r0 … r10, r10 is never written, reserved fields are zero, each jump
 * and local call lands on the first slot of an instruction, and control cannot run past the end.
 */
import { EbpfError } from './errors.js';
import {
  ATOMIC_OPERATIONS,
  CALL_OPCODE,
  EXIT_OPCODE,
  FORMS,
  type Form,
  GOTOL_OPCODE,
  JA_OPCODE,
  LDDW,
} from './forms.js';
import { ATOMIC, CALL, CLASS, FRAME_POINTER, INSN_BYTES, MODE } from './isa.js';

export { EbpfError, EbpfFault } from './errors.js';

/** Programs longer than this many slots are refused unless the caller says otherwise. */
export const DEFAULT_MAX_SLOTS = 16384;

export interface Insn {
  /** Index of the instruction's first slot: jumps count in slots. */
  readonly pc: number;
  readonly opcode: number;
  readonly dst: number;
  readonly src: number;
  /** Signed, 16 bits. */
  readonly off: number;
  /** Signed, 32 bits; for lddw the low half. */
  readonly imm: number;
  /** The whole constant of a lddw, unsigned; null for all others. */
  readonly imm64: bigint | null;
  readonly slots: 1 | 2;
}

export interface Program {
  readonly name: string;
  /** Length in slots of 8 bytes. */
  readonly slots: number;
  /** In order; a lddw once. */
  readonly insns: readonly Insn[];
  /** By slot; undefined for the second half of a lddw. */
  readonly bySlot: readonly (Insn | undefined)[];
}

export interface DecodeOptions {
  readonly maxSlots?: number;
}

/**
 * Decodes and checks a program.
 * @throws EbpfError `EBPF_LENGTH`, `EBPF_OPCODE`, `EBPF_LEGACY`, `EBPF_REGISTER`, `EBPF_FRAME_POINTER`, `EBPF_RESERVED`,
 *   `EBPF_ATOMIC`, `EBPF_LDDW`, `EBPF_JUMP`, `EBPF_FALL_OFF`
 */
export function decodeProgram(bytes: Uint8Array, name = 'program', options: DecodeOptions = {}): Program {
  const maxSlots = options.maxSlots ?? DEFAULT_MAX_SLOTS;
  if (bytes.length === 0) throw new EbpfError('EBPF_LENGTH', 'the program is empty');
  if (bytes.length % INSN_BYTES !== 0) {
    throw new EbpfError(
      'EBPF_LENGTH',
      `${bytes.length} bytes are no whole number of ${INSN_BYTES}-byte instructions`,
    );
  }
  const slots = bytes.length / INSN_BYTES;
  if (slots > maxSlots) throw new EbpfError('EBPF_LENGTH', `${slots} slots, at most ${maxSlots} are taken`);

  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const insns: Insn[] = [];
  const bySlot: (Insn | undefined)[] = new Array(slots).fill(undefined);
  for (let pc = 0; pc < slots; ) {
    const insn = decodeInsn(view, pc, slots);
    checkFields(insn);
    insns.push(insn);
    bySlot[pc] = insn;
    pc += insn.slots;
  }
  for (const insn of insns) checkTarget(insn, bySlot);
  const last = insns[insns.length - 1]!;
  if (last.opcode !== EXIT_OPCODE && last.opcode !== JA_OPCODE && last.opcode !== GOTOL_OPCODE) {
    throw new EbpfError('EBPF_FALL_OFF', 'control runs past the last instruction', last.pc);
  }
  return { name, slots, insns, bySlot };
}

/** The slot that a jump or local call goes to, or null for all other instructions. */
export function targetOf(insn: Insn): number | null {
  const { opcode } = insn;
  if (!isJumpClass(opcode)) return null;
  if (opcode === GOTOL_OPCODE) return insn.pc + 1 + insn.imm;
  if (opcode === CALL_OPCODE) return insn.src === CALL.LOCAL ? insn.pc + 1 + insn.imm : null;
  return FORMS.get(opcode)?.off === 'jump' ? insn.pc + 1 + insn.off : null;
}

/** Jumps, calls and exits. */
export function isJumpClass(opcode: number): boolean {
  const cls = opcode & 7;
  return cls === CLASS.JMP || cls === CLASS.JMP32;
}

function decodeInsn(view: DataView, pc: number, slots: number): Insn {
  const at = pc * INSN_BYTES;
  const opcode = view.getUint8(at);
  const registers = view.getUint8(at + 1);
  const insn = {
    pc,
    opcode,
    dst: registers & 15,
    src: registers >> 4,
    off: view.getInt16(at + 2, true),
    imm: view.getInt32(at + 4, true),
  };
  if (opcode !== LDDW) return { ...insn, imm64: null, slots: 1 };

  if (pc + 1 >= slots) throw new EbpfError('EBPF_LDDW', 'lddw lacks its second half', pc);
  if (view.getUint32(at + 8, true) !== 0) {
    throw new EbpfError('EBPF_LDDW', 'the second half of lddw has fields other than its imm', pc);
  }
  const low = BigInt(view.getUint32(at + 4, true));
  const high = BigInt(view.getUint32(at + 12, true));
  return { ...insn, imm64: (high << 32n) | low, slots: 2 };
}

function checkFields(insn: Insn): void {
  const { pc, opcode, dst, src, off, imm } = insn;
  const form = FORMS.get(opcode);
  if (form === undefined) throw unknownOpcode(insn);

  if (dst > FRAME_POINTER) throw new EbpfError('EBPF_REGISTER', `there is no register r${dst}`, pc);
  if (form.dst === undefined && dst !== 0) throw reserved('dst', dst, pc);
  if (form.src === 'read') {
    if (src > FRAME_POINTER) throw new EbpfError('EBPF_REGISTER', `there is no register r${src}`, pc);
  } else if (!(form.src ?? [0]).includes(src)) {
    if (opcode === LDDW) {
      throw new EbpfError(
        'EBPF_LDDW',
        `lddw of kind ${src} needs a map or a variable; only plain constants exist`,
        pc,
      );
    }
    throw reserved('src', src, pc);
  }
  if (form.off === undefined ? off !== 0 : Array.isArray(form.off) && !form.off.includes(off)) {
    throw reserved('offset', off, pc);
  }
  if (form.imm === ATOMIC_OPERATIONS) {
    if (!ATOMIC_OPERATIONS.includes(imm)) {
      throw new EbpfError('EBPF_ATOMIC', `there is no atomic operation 0x${(imm >>> 0).toString(16)}`, pc);
    }
  } else if (form.imm === undefined ? imm !== 0 : Array.isArray(form.imm) && !form.imm.includes(imm)) {
    throw reserved('imm', imm, pc);
  }
  if (writtenRegister(insn, form) === FRAME_POINTER) {
    throw new EbpfError('EBPF_FRAME_POINTER', 'r10, the frame pointer, is read-only', pc);
  }
}

/** The register that its own fields name as changed (calls change r0 … r5 besides, CMPXCHG changes r0). */
function writtenRegister(insn: Insn, form: Form): number | null {
  if (form.dst === 'write') return insn.dst;
  const fetches = form.imm === ATOMIC_OPERATIONS && (insn.imm & ATOMIC.FETCH) !== 0;
  return fetches && insn.imm !== ATOMIC.CMPXCHG ? insn.src : null;
}

function checkTarget(insn: Insn, bySlot: readonly (Insn | undefined)[]): void {
  const target = targetOf(insn);
  if (target === null) return;
  if (target < 0 || target >= bySlot.length) {
    throw new EbpfError('EBPF_JUMP', `the target ${target} lies outside the program`, insn.pc);
  }
  if (bySlot[target] === undefined) {
    throw new EbpfError('EBPF_JUMP', `the target ${target} is the second half of a lddw`, insn.pc);
  }
}

function unknownOpcode({ opcode, pc }: Insn): EbpfError {
  const mode = opcode & 0xe0;
  if ((opcode & 7) === CLASS.LD && (mode === MODE.ABS || mode === MODE.IND)) {
    return new EbpfError('EBPF_LEGACY', 'legacy packet access (ABS, IND) is not supported', pc);
  }
  return new EbpfError('EBPF_OPCODE', `there is no opcode 0x${opcode.toString(16).padStart(2, '0')}`, pc);
}

function reserved(field: string, value: number, pc: number): EbpfError {
  return new EbpfError('EBPF_RESERVED', `${field} must not be ${value} here`, pc);
}
