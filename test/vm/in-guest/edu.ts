/**
 * Run inside a guest: QEMU's `edu` device through our VFIO. It has a register that inverts, one that counts factorials, and a DMA engine with 4 KiB of its own.
 * Says in JSON what came of it.
 *
 * Registers: docs/specs/edu.rst of QEMU.
 */
import { setTimeout } from 'node:timers/promises';
import { GuestRam } from '../../../src/guest/guest-ram.js';
import { KernelPci } from '../../../src/guest/pci/kernel-pci.js';
import { openFds } from '../../../src/linux/fd.js';
import { openMappings } from '../../../src/linux/mmap.js';
import { REGION } from '../../../src/linux/vfio-numbers.js';
import { Window } from '../../../src/memory/window.js';

const EDU = {
  ID: 0x00,
  INVERT: 0x04,
  FACTORIAL: 0x08,
  STATUS: 0x20,
  SOURCE: 0x80,
  TARGET: 0x88,
  COUNT: 0x90,
  COMMAND: 0x98,
};
const OWN_MEMORY = 0x40000n;
const BUSY = 1;
const START = 1;
const TO_RAM = 2;
const LENGTH = 4096;
/** Where the device sees our memory: the upper halves of its addresses can't be written in words. */
const IOVA = 0x4000_0000n;

const window = Window.create();
const notes: string[] = [];
const edu = await KernelPci.open(process.argv[2]!);
const read = (register: number) => edu.read(REGION.BAR0, register, 4);
const write = (register: number, value: number) => edu.write(REGION.BAR0, register, value, 4);

async function copy(source: bigint, target: bigint, command: number): Promise<void> {
  await write(EDU.SOURCE, Number(source));
  await write(EDU.TARGET, Number(target));
  await write(EDU.COUNT, LENGTH);
  await write(EDU.COMMAND, START | command);
  while (((await read(EDU.COMMAND)) & START) !== 0) await setTimeout(5);
}

await write(EDU.INVERT, 0x1234_5678);
await write(EDU.FACTORIAL, 10);
while (((await read(EDU.STATUS)) & BUSY) !== 0) await setTimeout(5);
const registers = {
  id: await edu.read(REGION.CONFIG, 0, 4),
  register: await read(EDU.ID),
  inverted: await read(EDU.INVERT),
  factorial: await read(EDU.FACTORIAL),
  words: Buffer.from(await edu.readWords(REGION.CONFIG, 0, 8)).toString('hex'),
  size: edu.regionSize(REGION.BAR0),
  none: edu.regionSize(REGION.BAR2),
  vectors: edu.vectors,
};

const ram = GuestRam.preferHuge(window, 4 << 20, why => notes.push(why));
const memory = { iova: IOVA, size: ram.size, fd: ram.fd, offset: 0, address: ram.address };
const seen = (address: number): bigint => ram.toGuest(address) - ram.guestPhysicalAddress + IOVA;
await edu.map(memory);
await edu.map({ ...memory, iova: ram.guestPhysicalAddress });
const [from, to] = [ram.allocate(LENGTH), ram.allocate(LENGTH)];
const noise = crypto.getRandomValues(new Uint8Array(LENGTH));
window.bytes.set(noise, from);
await copy(seen(from), OWN_MEMORY, 0);
await copy(OWN_MEMORY, seen(to), TO_RAM);
const same = () => Buffer.compare(window.bytes.slice(to, to + LENGTH), noise) === 0;
const copied = same();

await edu.unmap(memory.iova, memory.size);
window.bytes.fill(0, to, to + LENGTH);
await copy(OWN_MEMORY, seen(to), TO_RAM);
const untouched = window.bytes.subarray(to, to + LENGTH).every(byte => byte === 0);

const outside = await edu.map({ ...memory, iova: 0xfee0_0000n }).catch((error: Error) => String(error));
const odd = await edu.map({ ...memory, size: 2048 }).catch((error: Error) => String(error));

const pageSize = ram.pageSize;
ram.close();
await edu.close();
await edu.close();
const late = await read(EDU.ID).catch((error: Error) => String(error));
const left = [...openFds(), ...openMappings()];
console.log(JSON.stringify({ registers, notes, pageSize, copied, untouched, outside, odd, late, left }));
