/** A queue context in memory of its own, and a device type's programs on it, by the interpreter: for tests that look at what programs do. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadObject } from '../../src/ebpf/elf.js';
import type { HelperSpec } from '../../src/ebpf/helpers.js';
import { interpret } from '../../src/ebpf/interpreter.js';
import { decodeProgram, type Program } from '../../src/ebpf/program.js';
import { type Sandbox, STACK_BYTES } from '../../src/ebpf/sandbox.js';

export const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
export const SECTIONS = ['rxp', 'rxc', 'rxi', 'rxr', 'txp', 'txc', 'txi', 'txr'];
export const HEAD = { NUM_BUFS: 16, OFLAGS: 24, MIN_COMPLETED: 28, BUFS: 48 };
export const OPAQUE = 2096;
export const RX_PKT_ALLOC = 0x4b8f0000;
export const SMP_MB_FULL = 0x4b8f0009;
export const ENOMEM = 12;
export const EINVAL = 22;

export type Programs = ReadonlyMap<string, Program>;

export interface Buf {
  cookie: bigint;
  paddr: bigint;
  len: number;
}

/** The committed object of a device type. */
export const objectOf = (device: string): string => join(ROOT, `programs/${device}/${device}.o`);

export function programsOf(path: string): Programs {
  const { programs } = loadObject(readFileSync(path));
  return new Map([...programs].map(([name, bytes]) => [name, decodeProgram(bytes, name)]));
}

export class ProgramBed {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** What happens while a helper runs. */
  onBarrier = (): void => {};
  onAlloc = (): number => 0;
  readonly #programs: Programs;
  readonly #sandbox: Sandbox;
  readonly #context: number;

  constructor(programs: Programs, contextSize: number) {
    this.#programs = programs;
    const stackBase = 4096;
    this.#context = stackBase + STACK_BYTES;
    const pages = Math.ceil((this.#context + contextSize) / 65536);
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    this.bytes = new Uint8Array(memory.buffer, this.#context, contextSize);
    this.view = new DataView(memory.buffer, this.#context, contextSize);
    const helpers: HelperSpec[] = [
      { id: RX_PKT_ALLOC, name: 'rx_pkt_alloc', args: [{ kind: 'context' }] },
      { id: SMP_MB_FULL, name: 'smp_mb_full', args: [] },
    ];
    this.#sandbox = {
      memory,
      contextSize,
      stackBase,
      budget: 10_000,
      helpers: new Map(helpers.map(spec => [spec.id, spec])),
      implementations: new Map([
        [RX_PKT_ALLOC, () => BigInt.asUintN(64, BigInt(this.onAlloc()))],
        [
          SMP_MB_FULL,
          () => {
            this.onBarrier();
            return 0n;
          },
        ],
      ]),
    };
  }

  get(offset: number): number {
    return this.view.getUint32(offset, true);
  }

  set(offset: number, value: number): void {
    this.view.setUint32(offset, value, true);
  }

  /** Runs a program; its result is a C int. */
  run(section: string): number {
    return Number(BigInt.asIntN(32, interpret(this.#programs.get(section)!, this.#sandbox, this.#context)));
  }

  setBuf(i: number, { cookie, paddr, len }: Buf): void {
    const at = HEAD.BUFS + 32 * i;
    this.view.setBigUint64(at, cookie, true);
    this.view.setBigUint64(at + 8, paddr, true);
    this.view.setBigUint64(at + 16, 0xdeadn, true);
    this.set(at + 24, len);
  }

  bufs(): Buf[] {
    return Array.from({ length: this.get(HEAD.NUM_BUFS) }, (_, i) => {
      const at = HEAD.BUFS + 32 * i;
      assert.equal(this.view.getBigUint64(at + 16, true), 0n, 'vaddr');
      return {
        cookie: this.view.getBigUint64(at, true),
        paddr: this.view.getBigUint64(at + 8, true),
        len: this.get(at + 24),
      };
    });
  }
}
