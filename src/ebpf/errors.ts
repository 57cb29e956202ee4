/** The two errors of the eBPF library. Both carry a stable `code` and, where there is one, the instruction's slot. */

/** A program, object file or assembly text that is refused before anything runs. */
export class EbpfError extends Error {
  /** `EBPF_…`, stable over releases. */
  readonly code: string;
  /** Slot index of the instruction at fault, or null when the fault is of no single instruction. */
  readonly pc: number | null;

  constructor(code: string, message: string, pc: number | null = null) {
    super(pc === null ? message : `insn ${pc}: ${message}`);
    this.name = new.target.name;
    this.code = code;
    this.pc = pc;
  }
}

/**
 * A running program that was stopped: `EBPF_ACCESS` (outside its memory), `EBPF_MISALIGNED` (atomic),
 * `EBPF_BUDGET`, `EBPF_DEPTH` (local calls), `EBPF_CALL` (no such function or helper), `EBPF_PROMISE` (a field
 * of the context does not hold what the verifier relied on).
 */
export class EbpfFault extends EbpfError {
  /** The address that was touched, as the register held it; null when no address is concerned. */
  readonly address: bigint | null;

  constructor(code: string, message: string, pc: number | null = null, address: bigint | null = null) {
    super(code, address === null ? message : `${message} at 0x${address.toString(16)}`, pc);
    this.address = address;
  }
}
