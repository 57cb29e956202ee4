/** Run inside a guest: takes a PCI function from its driver, tries to take it once more, and gives it back. Says in JSON who had it, or why it can't be had. */
import { KernelPci } from '../../../src/guest/pci/kernel-pci.js';
import { openFds } from '../../../src/linux/fd.js';
import { readPciNode } from '../../../src/linux/pci-bind.js';
import { Sysfs } from '../../../src/linux/sysfs.js';

const address = process.argv[2]!;
const node = () => readPciNode(new Sysfs(), address);
const why = (error: Error) => String(error);
const states = [node()];
let refused = '';
let again = '';
try {
  const access = await KernelPci.open(address);
  states.push(node());
  again = await KernelPci.open(address).then(String, why);
  states.push(node());
  await access.close();
} catch (error) {
  refused = why(error as Error);
}
states.push(node());
const drivers = states.map(state => [state?.driver, state?.override]);
console.log(JSON.stringify({ drivers, refused, again, left: openFds() }));
