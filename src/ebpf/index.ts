/** eBPF as a library: decode, assemble, load from ELF, verify, interpret, compile to WebAssembly. Imports nothing else of the project. */
export { assemble } from './asm.js';
export { disassemble, disassembleInsn } from './disasm.js';
export { type ElfLimits, type ElfObject, isElf, loadObject } from './elf.js';
export {
  type HelperArg,
  type HelperFunction,
  type HelperImplementations,
  type HelperSpec,
  type HelperTable,
  helperKey,
  RUNTIME_KEY,
} from './helpers.js';
export { interpret } from './interpreter.js';
export * from './isa.js';
export {
  type CompiledProgram,
  compile,
  hostHelpers,
  instantiate,
  type JitOptions,
  type JitStats,
  type ProgramInstance,
} from './jit/index.js';
export {
  type DecodeOptions,
  decodeProgram,
  EbpfError,
  EbpfFault,
  type Insn,
  type Program,
  targetOf,
} from './program.js';
export { type Region, type Sandbox, STACK_BYTES } from './sandbox.js';
export {
  type Accepted,
  type ContextPromise,
  type Refused,
  type Verdict,
  type VerifyOptions,
  verify,
} from './verifier/index.js';
