/** The ELF loader: linking, and files made to break it. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { assemble } from '../../src/ebpf/asm.js';
import { loadObject } from '../../src/ebpf/elf.js';
import { decodeProgram, EbpfError } from '../../src/ebpf/program.js';
import { runOnce } from '../../src/ebpf/run.js';
import { code, headerAt, type RelocationPlan, rel, type SymbolPlan, writeObject } from './ebpf-elf-writer.js';

const R_64_64 = 1;
const R_64_32 = 10;

const TEXT = 'double:\nmov r0, r1\nadd r0, r0\nexit\ninc:\nmov r0, r1\nadd r0, 1\nexit';
const TXP = 'mov r1, 20\ncall local -1\nmov r1, r0\ncall local -1\nexit'; // imm -2: to be relocated

/**
 * Sections: 1 .text, 2 txp, 3 relocations of txp, 4 symbols, 5 strings. Symbols: 1 .text (a section), 2 inc, 3 outside, 4 counter.
 * The first call goes to `inc` by name, the second to `double` as .text + 0.
 */
function linked(
  relocations?: readonly RelocationPlan[],
  txp = TXP,
  symbols?: readonly SymbolPlan[],
): Uint8Array {
  const program = assemble(txp);
  const view = new DataView(program.buffer);
  for (const slot of [1, 3]) if (program[slot * 8] === 0x85) view.setInt32(slot * 8 + 4, -1, true);
  const calls = [
    { offset: 8, type: R_64_32, symbol: 2 },
    { offset: 24, type: R_64_32, symbol: 1 },
  ];
  return writeObject(
    [code('.text', assemble(TEXT)), code('txp', program), rel('.reltxp', 4, 2, relocations ?? calls)],
    symbols ?? [
      { name: '', section: 1 },
      { name: 'inc', section: 1, value: 24 },
      { name: 'outside', section: 0 },
      { name: 'counter', section: 5 },
    ],
  );
}

/** A valid object with something changed. */
function spoilt(change: (view: DataView, file: Uint8Array) => void): Uint8Array {
  const file = linked();
  change(new DataView(file.buffer), file);
  return file;
}

const call = (symbol: number, offset = 8) => [{ offset, type: R_64_32, symbol }];

const REFUSED: readonly (readonly [name: string, file: () => Uint8Array, code: string, message: RegExp])[] = [
  ['an empty file', () => new Uint8Array(), 'EBPF_ELF', /no ELF file/],
  ['another file', () => new TextEncoder().encode('#!/bin/sh\n'), 'EBPF_ELF', /no ELF file/],
  ['a cut header', () => linked().slice(0, 63), 'EBPF_ELF', /cut off/],
  ['a cut file', () => linked().slice(0, -1), 'EBPF_ELF', /section headers lies outside/],
  ['32 bits', () => spoilt((_, file) => (file[4] = 1)), 'EBPF_ELF', /64-bit/],
  ['big-endian', () => spoilt((_, file) => (file[5] = 2)), 'EBPF_ELF', /little-endian/],
  ['an executable', () => spoilt(view => view.setUint16(16, 2, true)), 'EBPF_ELF', /relocatable/],
  ['another machine', () => spoilt(view => view.setUint16(18, 62, true)), 'EBPF_ELF', /machine 62/],
  ['no sections', () => spoilt(view => view.setUint16(60, 0, true)), 'EBPF_ELF', /no sections/],
  [
    '65535 sections',
    () => spoilt(view => view.setUint16(60, 65535, true)),
    'EBPF_ELF_LIMIT',
    /65535 sections/,
  ],
  ['odd section headers', () => spoilt(view => view.setUint16(58, 40, true)), 'EBPF_ELF', /unknown size/],
  [
    'headers that wrap',
    () => spoilt(view => view.setBigUint64(40, 2n ** 64n - 64n, true)),
    'EBPF_ELF',
    /outside/,
  ],
  ['no names', () => spoilt(view => view.setUint16(62, 6, true)), 'EBPF_ELF', /names does not exist/],
  ['names that are code', () => spoilt(view => view.setUint16(62, 1, true)), 'EBPF_ELF', /no string table/],
  [
    'a name outside the table',
    () => spoilt((view, file) => view.setUint32(headerAt(file, 2), 0xffffffff, true)),
    'EBPF_ELF',
    /name has no end/,
  ],
  [
    'two sections of one name',
    () =>
      spoilt((view, file) =>
        view.setUint32(headerAt(file, 1), view.getUint32(headerAt(file, 2), true), true),
      ),
    'EBPF_ELF',
    /two sections txp/,
  ],
  [
    'a section outside the file',
    () => spoilt((view, file) => view.setBigUint64(headerAt(file, 2) + 24, 1n << 40n, true)),
    'EBPF_ELF',
    /section 2 lies outside/,
  ],
  [
    'a section whose end wraps',
    () => spoilt((view, file) => view.setBigUint64(headerAt(file, 2) + 32, 2n ** 64n - 8n, true)),
    'EBPF_ELF',
    /section 2 lies outside/,
  ],
  [
    'overlapping sections',
    () =>
      spoilt((view, file) =>
        view.setBigUint64(headerAt(file, 2) + 24, view.getBigUint64(headerAt(file, 1) + 24, true), true),
      ),
    'EBPF_ELF',
    /overlaps/,
  ],
  [
    'a section over the header',
    () => spoilt((view, file) => view.setBigUint64(headerAt(file, 2) + 24, 8n, true)),
    'EBPF_ELF',
    /overlaps the header/,
  ],
  [
    'code of 12 bytes',
    () => writeObject([code('txp', new Uint8Array(12))]),
    'EBPF_ELF',
    /no whole number of instructions/,
  ],
  [
    'a map',
    () => linked([{ offset: 0, type: R_64_64, symbol: 4 }]),
    'EBPF_RELOCATION',
    /map or variable counter/,
  ],
  [
    'an unknown relocation',
    () => linked([{ offset: 8, type: 3, symbol: 2 }]),
    'EBPF_RELOCATION',
    /relocation 3/,
  ],
  [
    'an undefined function',
    () => linked(call(3)),
    'EBPF_RELOCATION',
    /calls outside, which is not in this object/,
  ],
  ['a call of data', () => linked(call(4)), 'EBPF_RELOCATION', /calls counter/],
  ['a symbol that does not exist', () => linked(call(5)), 'EBPF_ELF', /symbol does not exist/],
  ['a relocation outside its section', () => linked(call(2, 40)), 'EBPF_ELF', /outside it/],
  ['a relocation inside an instruction', () => linked(call(2, 12)), 'EBPF_ELF', /outside it/],
  ['a relocation of no call', () => linked(call(2, 0)), 'EBPF_ELF', /a call is relocated/],
  ['two relocations of one call', () => linked([...call(1), ...call(2)]), 'EBPF_ELF', /twice/],
  [
    'more relocations than instructions',
    () => linked(Array.from({ length: 6 }, () => call(2)[0]!)),
    'EBPF_ELF',
    /more relocations than instructions/,
  ],
  [
    'a target outside its section',
    () => linked(call(1), TXP, [{ name: 'f', section: 1, value: 48 }]),
    'EBPF_ELF',
    /calls f outside its section/,
  ],
  [
    'a target inside an instruction',
    () => linked(call(1), TXP, [{ name: 'f', section: 1, value: 4 }]),
    'EBPF_ELF',
    /outside its section/,
  ],
  [
    'relocations with addends',
    () => spoilt((view, file) => view.setUint32(headerAt(file, 3) + 4, 4, true)),
    'EBPF_ELF',
    /RELA/,
  ],
  [
    'relocations without symbols',
    () => spoilt((view, file) => view.setUint32(headerAt(file, 3) + 40, 1, true)),
    'EBPF_ELF',
    /no symbol table/,
  ],
  [
    'relocations of nothing',
    () => spoilt((view, file) => view.setUint32(headerAt(file, 3) + 44, 99, true)),
    'EBPF_ELF',
    /does not exist/,
  ],
  [
    'symbols of size 0',
    () => spoilt((view, file) => view.setBigUint64(headerAt(file, 4) + 56, 0n, true)),
    'EBPF_ELF',
    /no symbol table/,
  ],
];

describe('eBPF: ELF objects', () => {
  it('links calls into another section', async () => {
    const { programs, relocations } = loadObject(linked());
    assert.deepEqual([...programs.keys()], ['.text', 'txp']);
    assert.equal(relocations, 2);
    const txp = programs.get('txp')!;
    assert.equal(txp.length, 5 * 8 + 6 * 8);
    for (const engine of ['interpret', 'jit'] as const) {
      assert.equal(await runOnce(txp, new Uint8Array(), engine), 42n);
    }
  });

  it('leaves the file untouched and gives programs of their own', () => {
    const file = linked();
    const before = file.slice();
    loadObject(file).programs.get('.text')!.fill(0);
    assert.deepEqual(file, before);
  });

  it('takes sections by kind: no data, nothing empty', () => {
    const data = { name: '.rodata', type: 1, flags: 2, bytes: new Uint8Array(8) };
    const file = writeObject([code('.text', new Uint8Array()), data, code('rxp', assemble('exit'))]);
    assert.deepEqual([...loadObject(file).programs.keys()], ['rxp']);
  });

  it('has limits that its caller can set', () => {
    assert.throws(() => loadObject(linked(), { maxBytes: 100 }), { code: 'EBPF_ELF_LIMIT' });
    assert.throws(() => loadObject(linked(), { maxSections: 5 }), { code: 'EBPF_ELF_LIMIT' });
    assert.throws(() => loadObject(linked(), { maxSlots: 10 }), { code: 'EBPF_ELF_LIMIT', message: /txp/ });
    assert.equal(loadObject(linked(), { maxSections: 6, maxSlots: 11 }).programs.size, 2);
  });

  for (const [name, file, expectedCode, message] of REFUSED) {
    it(`refuses ${name}`, () => {
      assert.throws(
        () => loadObject(file()),
        (error: unknown) => {
          assert.ok(error instanceof EbpfError);
          assert.equal(error.code, expectedCode);
          assert.match(error.message, message);
          return true;
        },
      );
    });
  }

  it('survives every single-byte change of three kinds', () => {
    const valid = linked();
    for (let at = 0; at < valid.length; at++) {
      for (const value of [0, 0xff, valid[at]! ^ 1]) {
        const file = valid.slice();
        file[at] = value;
        loadOrRefuse(file);
      }
    }
  });

  it('survives random changes of many bytes', () => {
    const valid = linked();
    const change = fc.tuple(fc.integer({ min: 4, max: valid.length - 1 }), fc.integer({ min: 0, max: 255 }));
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 12 }), changes => {
        const file = valid.slice();
        for (const [at, value] of changes) file[at] = value;
        loadOrRefuse(file);
      }),
      { numRuns: 3000 },
    );
  });

  const sring = fileURLToPath(new URL('../../../programs/sring/sring.o', import.meta.url));
  it('loads the programs of sring', { skip: existsSync(sring) ? false : `${sring} is not there` }, () => {
    const { programs } = loadObject(readFileSync(sring));
    assert.deepEqual([...programs.keys()].sort(), ['rxc', 'rxi', 'rxp', 'rxr', 'txc', 'txi', 'txp', 'txr']);
    for (const [name, bytecode] of programs) assert.equal(decodeProgram(bytecode, name).name, name);
  });
});

/** Any other error than the library's own fails the test. */
function loadOrRefuse(file: Uint8Array): void {
  try {
    for (const [name, bytecode] of loadObject(file).programs) decodeProgram(bytecode, name);
  } catch (error) {
    if (!(error instanceof EbpfError)) throw error;
  }
}

it('of sections that are not wanted, nothing that they ask for matters', () => {
  const file = linked([{ offset: 0, type: R_64_64, symbol: 4 }]);
  assert.throws(() => loadObject(file), { code: 'EBPF_RELOCATION' });
  assert.throws(() => loadObject(file, { sections: new Set(['txp']) }), { code: 'EBPF_RELOCATION' });
  const { programs, relocations } = loadObject(file, { sections: new Set(['.text', 'rxp']) });
  assert.deepEqual([[...programs.keys()], relocations], [['.text'], 0]);
  assert.deepEqual(programs.get('.text'), assemble(TEXT));
});
