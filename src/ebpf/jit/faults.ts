/**
 * How a program that is stopped says why: generated code puts number, slot and address into exported globals and traps;
 * `readFault` turns them into an EbpfFault.
 */
import { EbpfFault } from '../errors.js';

interface FaultKind {
  readonly code:
    | 'EBPF_ACCESS'
    | 'EBPF_MISALIGNED'
    | 'EBPF_BUDGET'
    | 'EBPF_DEPTH'
    | 'EBPF_CALL'
    | 'EBPF_PROMISE';
  readonly message: string;
  /** Whether the address means something. */
  readonly addressed: boolean;
}

export type FaultCode = FaultKind['code'];

/** A fault's number is its position plus 1: 0 is no fault. */
const FAULTS: readonly FaultKind[] = [
  { code: 'EBPF_ACCESS', message: "access outside the program's memory", addressed: true },
  { code: 'EBPF_MISALIGNED', message: 'misaligned atomic', addressed: true },
  { code: 'EBPF_BUDGET', message: 'the instruction budget is spent', addressed: false },
  { code: 'EBPF_DEPTH', message: 'local calls nest too deep', addressed: false },
  { code: 'EBPF_CALL', message: 'there is no such function', addressed: false },
  { code: 'EBPF_PROMISE', message: 'the context holds what its owner never puts there', addressed: false },
];

export const FAULT_EXPORTS = { code: 'fault_code', pc: 'fault_pc', address: 'fault_address' } as const;

export function faultNumber(code: FaultCode): number {
  return FAULTS.findIndex(kind => kind.code === code) + 1;
}

/**
 * The fault behind an error that `run` threw, or null when the error is another one: thrown by a helper, or a trap
 * of other WebAssembly. Reading clears it.
 */
export function readFault(exports: WebAssembly.Exports, error: unknown): EbpfFault | null {
  if (!(error instanceof WebAssembly.RuntimeError)) return null;
  const state: WebAssembly.Global<number> = exports[FAULT_EXPORTS.code];
  const kind = FAULTS[state.value - 1];
  if (kind === undefined) return null;
  state.value = 0;
  const address = kind.addressed ? BigInt.asUintN(64, exports[FAULT_EXPORTS.address].value) : null;
  return new EbpfFault(kind.code, kind.message, exports[FAULT_EXPORTS.pc].value, address);
}
