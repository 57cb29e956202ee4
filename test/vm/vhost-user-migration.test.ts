/** A guest moves from one backend to another while it talks: nothing is lost, and everything goes on where it was. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { configure, HOST_IP, shown } from '../../src/vm/cable.js';
import { Vm } from '../../src/vm/vm.js';
import { Backend, type Wish } from './kit/backend.js';
import { LONG, QEMUS, vmTest } from './kit/needs.js';

const BYTES = 20_000_000;
const ECHOES = 400;

const WISHES: readonly (Wish & { readonly everyday?: boolean })[] = [
  {},
  { packed: true, everyday: true },
  { queues: 2 },
  { packed: true, queues: 2 },
];

for (const qemu of QEMUS) {
  for (const { everyday = false, ...wish } of WISHES) {
    if (!LONG && (!everyday || qemu !== '11.1')) continue;
    const { packed = false, queues = 1 } = wish;
    const name = `a guest with ${queues} ${packed ? 'packed' : 'split'} queue pairs moves to another backend`;
    vmTest(name, qemu, async t => {
      const backends = [await Backend.start(wish), await Backend.start(wish)] as const;
      const [here, there] = backends;
      const vms: Vm[] = [];
      try {
        const source = await Vm.start({ qemu, cpus: queues, nics: [here.nic] });
        vms.push(source);
        const target = await Vm.start({ qemu, cpus: queues, nics: [there.nic], incoming: true });
        vms.push(target);
        await configure(source);
        await here.cable.ping(source);
        t.diagnostic(`before: ${shown(await here.cable.tcp(source, BYTES, queues))}`);

        // Each end of the cable answers as the other did: the guest can't tell where it is.
        const echoes = source.run(`ping -c ${ECHOES} -i 0.02 -W 10 ${HOST_IP} | tail -2`);
        await source.migrateTo(target, join(here.folder, 'migration.sock'));
        await source.stop();
        const said = await echoes;
        t.diagnostic(said.replaceAll('\n', '; '));
        assert.match(said, new RegExp(`${ECHOES} packets transmitted, ${ECHOES} packets received`));

        await there.cable.ping(target);
        t.diagnostic(`after: ${shown(await there.cable.tcp(target, BYTES, queues))}`);
      } catch (error) {
        t.diagnostic(backends.map(({ output }) => output).join('\n'));
        for (const vm of vms) t.diagnostic(vm.console);
        await Promise.all(vms.map(vm => vm.stop()));
        await Promise.all(backends.map(backend => backend.abandon()));
        throw error;
      }
      await Promise.all(vms.map(vm => vm.stop()));
      for (const backend of backends) await backend.close();
    });
  }
}
