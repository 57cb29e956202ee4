/** What the driver and its helpers put where the device can read it: numbers and guest physical addresses, and no address of this process. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as L from '../../datapath/layout.js';
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
