/** What the driver and its helpers put where the device can read it: numbers and guest physical addresses, and no address of this process. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { assemble } from '../../src/ebpf/asm.js';
import { decodeProgram } from '../../src/ebpf/program.js';
import { verify } from '../../src/ebpf/verifier/index.js';
import { BPFHV_HELPERS } from '../../src/guest/bpfhv/helpers.js';
import { deviceTypeNames } from '../../src/ring/registry.js';
import { ReceiveFlow, TransmitFlow } from '../compliance/actors.js';
import { arena, type Side, Testbed, window } from '../compliance/testbed.js';

const NUM = 16;
const ENOMEM = -12n;

function onBed(device: string, body: (bed: Testbed) => void): void {
  const bed = new Testbed({ device, num: NUM });
  try {
    body(bed);
  } finally {
    bed.close();
  }
}

const word = ({ context }: Side, at: number) => window.longs[(context + at) / 8]!;

for (const device of deviceTypeNames.filter(name => !name.includes('+'))) {
  test(`${device}: the head of a context names buffers by number and guest physical address`, () => {
    onBed(device, bed => {
      const tx = new TransmitFlow(bed);
      const rx = new ReceiveFlow(bed);
      for (let round = 0; round < 5; round++) {
        rx.refill();
        tx.publish(7);
        tx.drain(NUM);
        rx.fill(NUM);
        const taken = rx.poll(5);
        assert.ok(taken > 0);
        const { ram } = bed;
        const [start, end] = [ram.guestPhysicalAddress, ram.guestPhysicalAddress + BigInt(ram.size)];
        const inGuest = (address: bigint) => address === 0n || (address >= start && address < end);
        for (const side of bed.sides) {
          assert.ok(word(side, L.CTX_PACKET) <= BigInt(L.MAX_BATCH), 'packet');
          for (let i = 0; i < L.CTX_MAX_BUFS; i++) {
            const buf = L.CTX_BUFS + i * L.BUF_SIZE;
            assert.ok(word(side, buf + L.BUF_COOKIE) < BigInt(NUM), 'cookie');
            assert.ok(inGuest(word(side, buf + L.BUF_PADDR)), 'paddr');
            assert.ok(inGuest(word(side, buf + L.BUF_VADDR)), 'vaddr');
          }
        }
        assert.ok(word(bed.rx, L.CTX_PACKET) > 0n, 'a received packet has a handle');
      }
    });
  });
}

test('dma_map knows the buffers of its queue, by the address that the context gives', () => {
  onBed('sring', bed => {
    const { calls } = bed.datapath;
    new ReceiveFlow(bed).refill();
    const out = arena.allocate(8);
    const map = (vaddr: bigint, length: bigint) => {
      window.longs[out / 8] = 0n;
      const result = calls.helper_dma_map(BigInt(bed.rx.context), vaddr, length, BigInt(out));
      return result === 0n ? window.longs[out / 8] : result;
    };
    const first = bed.ram.toGuest(bed.rx.buffers);
    const size = 2048n * BigInt(NUM);
    for (let i = 0; i < NUM; i++) {
      const buf = L.CTX_BUFS + i * L.BUF_SIZE;
      assert.equal(map(word(bed.rx, buf + L.BUF_VADDR), 1518n), word(bed.rx, buf + L.BUF_PADDR));
    }
    assert.equal(map(first + 100n, 1n), first + 100n);
    assert.equal(map(first, size), first);
    for (const [vaddr, length] of [
      [first - 1n, 1n],
      [first + size, 0n],
      [first, size + 1n],
      [first + size - 1n, 2n],
      [first + 1n, 2n ** 64n - 1n],
      [BigInt(bed.rx.buffers), 1n],
      [BigInt(bed.stack), 1n],
      [0n, 1n],
      [2n ** 64n - 1n, 1n],
    ] as const) {
      assert.equal(map(vaddr, length), ENOMEM, `${vaddr.toString(16)}, ${length}`);
    }
    arena.free(out);
  });
});

/** Keeps a pointer where a helper is to write, then shows what is there to the device. */
const told = (call: string) => `
  mov %r6, %r1
  stxdw [%r10-16], %r10
  ${call}
  ldxdw %r2, [%r10-16]
  stxdw [%r6+${L.CTX_OPAQUE + 400}], %r2
  mov %r0, 0
  exit`;
const OUT = 'mov %r2, %r10\nadd %r2, -16';

for (const [helper, call] of [
  [
    'pkt_l4_csum_md_get',
    `${OUT}\nmov %r3, %r2\nadd %r3, 2\ncall helper 0x4b8f0001\nldxh %r2, [%r10-16]\nldxh %r3, [%r10-14]\nstdw [%r10-16], 0\nlsh %r3, 16\nor %r2, %r3\nstxdw [%r10-16], %r2`,
  ],
  ['pkt_virtio_net_md_get', `${OUT}\ncall helper 0x4b8f0003`],
  ['rx_buf_dma_map', 'mov %r2, 1\nmov %r3, 1\nmov %r4, %r10\nadd %r4, -16\ncall helper 0x4b8f0005'],
] as const) {
  test(`${helper} writes what it is to write when it fails, too: what was there is a number to the program from then on`, () => {
    onBed('sring', bed => {
      const bytes = assemble(told(call));
      const options = { contextSize: bed.tx.contextSize, helpers: BPFHV_HELPERS } as const;
      const verdict = verify(decodeProgram(bytes), options);
      assert.ok(verdict.accepted, verdict.accepted ? '' : verdict.reason);
      for (const engine of ['jit', 'interpreter'] as const) {
        bed.load(engine, new Map([['txi', bytes]]));
        window.longs[(bed.tx.context + L.CTX_OPAQUE + 400) / 8] = 77n;
        bed.datapath.calls.driver_arm(bed.tx.driver, 1); // no packet is at hand
        assert.equal(word(bed.tx, L.CTX_OPAQUE + 400), 0n, engine);
      }
    });
  });
}
