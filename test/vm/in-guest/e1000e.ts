/**
 * Run inside a guest: QEMU's e1000e through our VFIO, as something that has MSI-X and raises its interrupts when told to.
 *
 * ```
 *   our eventfd ── wired by the kernel ──► ICS register ──► IVAR: which vector ──► MSI-X ──► our eventfd
 * ```
 * Says in JSON what came of it; then holds the function until the kernel wants it back, and says so.
 * Registers: 82574 datasheet, 10.2.4.
 */
import { KernelPci } from '../../../src/guest/pci/kernel-pci.js';
import { drainEventFd, EventFd } from '../../../src/linux/eventfd.js';
import { openFds } from '../../../src/linux/fd.js';
import { eventually } from '../../../src/linux/testing.js';
import { REGION } from '../../../src/linux/vfio-numbers.js';

/** Interrupt causes, to be cleared; cause set, mask set, and the table from causes to vectors. */
const [ICR, ICS, IMS, IVAR] = [0xc0, 0xc8, 0xd0, 0xe4];
const CAUSES = { rx0: 1 << 20, tx0: 1 << 22 };
/** rx0 raises vector 1, tx0 vector 3: bit 3 of each of the table's five nibbles says that it counts. */
const VECTORS = 8 | 1 | ((8 | 3) << 8);

const nic = await KernelPci.open(process.argv[2]!);
const write = (register: number, value: number) => nic.write(REGION.BAR0, register, value, 4);
const irqs = Array.from({ length: nic.vectors }, (_, i) => EventFd.create(`vector ${i}`));
await nic.connect(irqs.map(irq => irq.owner));
await write(IVAR, VECTORS);
await write(IMS, CAUSES.rx0 | CAUSES.tx0);

const counts = () => irqs.map(irq => drainEventFd(irq.fd));
async function raised(action: () => unknown): Promise<number[]> {
  await write(ICR, CAUSES.rx0 | CAUSES.tx0);
  await action();
  const sum = irqs.map(() => 0);
  await eventually(() => {
    for (const [i, count] of counts().entries()) sum[i]! += count;
    return sum.some(count => count > 0);
  });
  return sum;
}

const bell = EventFd.create('bell');
await nic.wire(REGION.BAR0, ICS, CAUSES.tx0, 4, bell.owner);
// The kernel wires no configuration space: this thread does then.
const second = EventFd.create('second bell');
const COMMAND = 4;
await nic.wire(REGION.CONFIG, COMMAND, 0x0106, 2, second.owner);

const written = await raised(() => write(ICS, CAUSES.rx0));
const rung = await raised(() => bell.signal());
second.signal();
while ((await nic.read(REGION.CONFIG, COMMAND, 2)) !== 0x0106) await new Promise(setImmediate);

// Fewer vectors than before.
await nic.connect(irqs.slice(0, 2).map(irq => irq.owner));
const again = await raised(() => write(ICS, CAUSES.rx0));
const short = await nic.connect([...irqs, bell].map(irq => irq.owner)).catch((error: Error) => String(error));
console.log(JSON.stringify({ vectors: nic.vectors, written, rung, again, short }));

const alive = setInterval(() => {}, 1000); // while it waits for the kernel
const reason = await new Promise<Error | null>(resolve => {
  nic.onGone = resolve;
});
clearInterval(alive);
const late = await nic.read(REGION.BAR0, 0, 4).catch((error: Error) => String(error));
await nic.close();
for (const eventfd of [...irqs, bell, second]) eventfd.close();
console.log(JSON.stringify({ reason: String(reason), late, left: openFds() }));
