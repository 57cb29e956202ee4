/** What a user of the JIT relies on: options, faults, helpers, other threads, the ends of a 4 GiB memory. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { assemble } from '../../src/ebpf/asm.js';
import { EbpfError } from '../../src/ebpf/errors.js';
import type { HelperSpec } from '../../src/ebpf/helpers.js';
import { ByteWriter } from '../../src/ebpf/jit/byte-writer.js';
import { compile, instantiate, type JitOptions } from '../../src/ebpf/jit/index.js';
import { decodeProgram } from '../../src/ebpf/program.js';

const PAGES = 65536; // 4 GiB
const memory = new WebAssembly.Memory({ initial: PAGES, maximum: PAGES, shared: true });
const options: JitOptions = {
  contextSize: 64,
  stackBase: 0xf000_0000,
  helpers: new Map(),
  budget: 1000,
  sharedMemory: true,
  memoryPages: PAGES,
};
const NO_HELPERS = new Map();

function build(text: string, more: Partial<JitOptions> = {}, helpers = NO_HELPERS) {
  const compiled = compile(decodeProgram(assemble(text)), { ...options, ...more });
  return { ...compiled, ...instantiate(compiled, memory, helpers) };
}

function faultOf(instance: ReturnType<typeof build>, context: bigint) {
  try {
    instance.run(context);
  } catch (error) {
    const fault = instance.fault(error);
    assert.equal(instance.fault(error), null, 'reading a fault clears it');
    return fault;
  }
  return null;
}

test('integers are encoded as the specification says', () => {
  const encode = (write: (out: ByteWriter) => void) => {
    const out = new ByteWriter(1);
    write(out);
    return Buffer.from(out.bytes()).toString('hex');
  };
  assert.equal(
    encode(out => out.u32(624485)),
    'e58e26',
  );
  assert.equal(
    encode(out => out.u32(0xffffffff)),
    'ffffffff0f',
  );
  assert.equal(
    encode(out => out.s32(-123456)),
    'c0bb78',
  );
  assert.equal(
    encode(out => out.s32(-0x80000000)),
    '8080808078',
  );
  for (const value of [0, 63, 64, -64, -65, 8191, 8192]) {
    assert.equal(
      encode(out => out.s64(BigInt(value))),
      encode(out => out.s32(value)),
    );
  }
  assert.equal(
    encode(out => out.s64(0xffff_ffff_ffff_ffffn)),
    '7f',
  );
  assert.equal(
    encode(out => out.s64(1n << 63n)),
    '8080808080808080807f',
  );
});

test('accesses at known offsets into context and frame need no guard', () => {
  const { stats } = build(`
    mov %r6, %r1
    add %r6, 32
    ldxdw %r3, [%r6+24]
    ldxdw %r4, [%r6-32]
    stxdw [%r10-8], %r3
    mov %r5, %r10
    add %r5, -512
    stxb [%r5+0], %r4
    ldxdw %r0, [%r6+25]
    and %r3, 7
    add %r3, %r6
    ldxb %r0, [%r3+0]
    exit`);
  assert.deepEqual([stats.proved, stats.guards], [4, 2]);
});

test('a pointer that differs between two ways keeps its guard', () => {
  const { stats } = build(`
    mov %r3, %r1
    jeq %r2, 5, +1
    add %r3, 8
    ldxdw %r0, [%r3+0]
    exit`);
  assert.deepEqual([stats.proved, stats.guards], [0, 1]);
});

test('context and stack may lie at the very end of 4 GiB', () => {
  const text =
    'mov %r3, %r1\nand %r2, 15\nadd %r3, %r2\nstdw [%r3+56], 77\nldxdw %r0, [%r1+56]\nstxdw [%r10-8], %r0\nldxdw %r0, [%r10-8]\nexit';
  const last = build(text, { stackBase: 2 ** 32 - 4096 });
  assert.equal(last.stats.guards, 1);
  assert.equal(last.run(2n ** 32n - 8192n - 64n), 77n);
  assert.equal(build(text).run(2n ** 32n - 64n), 77n);
  const beyond = build('mov %r3, %r1\nand %r2, 1\nadd %r3, %r2\nldxdw %r0, [%r3+60]\nexit');
  const fault = faultOf(beyond, 2n ** 32n - 64n);
  assert.deepEqual([fault?.code, fault?.pc, fault?.address], ['EBPF_ACCESS', 3, 2n ** 32n - 4n]);
});

test('an address that wraps around 2^32 or 2^64 is outside', () => {
  const at = (address: string, off: number) =>
    `lddw %r3, ${address}\nldxb %r0, [%r3${off < 0 ? off : `+${off}`}]\nexit`;
  for (const text of [at('0x100010000', 0), at('0xfffffffffffffff8', 16), at('0xffffffff00010000', 0)]) {
    assert.equal(faultOf(build(text), 0x10000n)?.code, 'EBPF_ACCESS', text);
  }
  // … unless the sum of register and offset lies inside.
  assert.notEqual(faultOf(build('lddw %r3, 0x10005\nldxb %r0, [%r3-6]\nexit'), 0x10000n), null);
  assert.equal(faultOf(build('lddw %r3, 0xfffffffffffffff8\nldxb %r0, [%r3+24]\nexit'), 16n), null);
});

test('an access that is vouched for gets no guard', () => {
  const text = 'mov %r3, %r2\nlsh %r3, 12\nldxdw %r0, [%r3-8]\nexit';
  assert.equal(faultOf(build(text), 0x1000n)?.code, 'EBPF_ACCESS');
  const trusting = build(text, { unguarded: new Set([2]) });
  assert.equal(trusting.stats.guards, 0);
  new DataView(memory.buffer).setBigUint64(64 * 4096 - 8, 1234n, true);
  assert.equal(trusting.run(0x1000n), 1234n);
});

test('extra regions can be touched, at known and at computed addresses', () => {
  const extra = [{ base: 0x9000_0000, size: 16 }];
  const known = build('lddw %r3, 0x90000000\nstdw [%r3+8], 5\nldxdw %r0, [%r3+8]\nexit', { extra });
  assert.equal(known.run(0x1000n), 5n);
  assert.equal(known.stats.guards, 0);
  const computed = 'mov32 %r3, %r2\nrsh %r3, 6\nlsh %r3, 31\nadd32 %r3, 0x10000000\nldxdw %r0, [%r3+8]\nexit';
  assert.equal(build(computed, { extra }).run(0x1000n), 5n);
  assert.equal(faultOf(build(computed.replace('+8', '+9'), { extra }), 0x1000n)?.address, 0x9000_0009n);
});

test('errors of others are not taken for faults', () => {
  const spec: HelperSpec = { id: 9, name: 'throws', args: [] };
  const helpers = new Map([[9, spec]]);
  const thrown = new Error('from the helper');
  const throwing = build(
    'call helper 9\nexit',
    { helpers },
    new Map([
      [
        9,
        () => {
          throw thrown;
        },
      ],
    ]),
  );
  assert.throws(
    () => throwing.run(0x1000n),
    error => error === thrown,
  );
  assert.equal(throwing.fault(thrown), null);
  assert.equal(throwing.fault(new WebAssembly.RuntimeError('unreachable')), null);
});

test('a helper without an implementation is found when the program is bound', () => {
  const helpers = new Map([[9, { id: 9, name: 'absent', args: [] }]]);
  assert.throws(() => build('call helper 9\nexit', { helpers }), { name: 'EbpfError', code: 'EBPF_CALL' });
  build('mov %r0, 0\nexit', { helpers }); // not called, not wanted
});

test('a fence is emitted in place and changes no memory', () => {
  const helpers = new Map<number, HelperSpec>([[3, { id: 3, name: 'barrier', args: [], inline: 'fence' }]]);
  const fenced = build(
    'stdw [%r10-8], 9\nmov %r0, 1\ncall helper 3\nldxdw %r3, [%r10-8]\nadd %r0, %r3\nexit',
    { helpers },
  );
  assert.equal(fenced.run(0x1000n), 9n);
  const code = Buffer.from(fenced.bytes);
  const lockedAdd = Buffer.from([0x41, 0, 0xfe, 0x1e, 2, 0, 0x1a]);
  assert.ok(code.includes(process.arch === 'x64' ? lockedAdd : Buffer.from([0xfe, 0x03, 0])));
});

test('options that make no sense are refused', () => {
  for (const bad of [
    { stackBase: 0xf000_0004 },
    { stackBase: 0 },
    { budget: -1 },
    { contextSize: 1.5 },
    { extra: [{ base: 0, size: 4 }] },
  ]) {
    assert.throws(
      () => build('exit', bad),
      (error: unknown) => error instanceof EbpfError && error.code === 'EBPF_SANDBOX',
    );
  }
});

test('without a budget nothing is counted', () => {
  const text = 'mov %r0, 5000\nl:\nadd %r0, -1\njne %r0, 0, l\nexit';
  assert.equal(faultOf(build(text), 0x1000n)?.code, 'EBPF_BUDGET');
  assert.equal(build(text, { budget: Number.POSITIVE_INFINITY }).run(0x1000n), 0n);
});

test('it runs over memory that is not shared', () => {
  const compiled = compile(
    decodeProgram(assemble('mov %r3, 4\nlock fetch add [%r1+0], %r3\nldxdw %r0, [%r1+0]\nexit')),
    {
      ...options,
      stackBase: 0x1000,
      sharedMemory: false,
      memoryPages: 4,
    },
  );
  const { run } = instantiate(compiled, new WebAssembly.Memory({ initial: 1, maximum: 4 }), NO_HELPERS);
  assert.equal(run(0x4000n), 4n);
});

test('a compiled program can be posted to another thread', async () => {
  const { module } = build('ldxdw %r0, [%r1+0]\nadd %r0, 1\nexit');
  new DataView(memory.buffer).setBigUint64(0x2000, 41n, true);
  const code = `
    import { parentPort, workerData } from 'node:worker_threads';
    import { instantiate } from ${JSON.stringify(new URL('../../src/ebpf/jit/index.js', import.meta.url).href)};
    parentPort.postMessage(instantiate(workerData, workerData.memory, new Map()).run(0x2000n));`;
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`), {
    workerData: { module, memory },
  });
  try {
    const answer = await new Promise((resolve, reject) =>
      worker.once('message', resolve).once('error', reject),
    );
    assert.equal(answer, 42n);
  } finally {
    await worker.terminate();
  }
});
