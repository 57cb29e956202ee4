/** Our vhost-user backend and devices of QEMU that are not the usual one: behind an IOMMU, legacy, with eight queue pairs. */
import assert from 'node:assert/strict';
import { LONG, QEMUS } from './kit/needs.js';
import { features, pingAndTcp, vhostTest } from './kit/vhost-test.js';

const BIT = { MRG_RXBUF: 15, VERSION_1: 32, ACCESS_PLATFORM: 33 } as const;
const PAIRS = 8;

// Each page is mapped for the device when it is handed to it, asked for by us, and taken back when it comes back: megabytes take their time.
for (const packed of LONG ? [false, true] : [true]) {
  vhostTest(
    `behind an IOMMU, ${packed ? 'packed' : 'split'}`,
    '11.1',
    { packed, properties: ['disable-legacy=on', 'iommu_platform=on', 'ats=on'] },
    async (vm, backend, t) => {
      assert.equal((await features(vm))[BIT.ACCESS_PLATFORM], '1');
      await pingAndTcp(vm, backend, t, { bytes: 3_000_000 });
      // Nobody asked for what the guest had taken back.
      assert.equal((await vm.run('dmesg | grep -c "DMA.*fault addr" || true')).trim(), '0');
    },
    { iommu: true, args: ['-global', 'intel-iommu.device-iotlb=on'], append: 'iommu.passthrough=0' },
  );
}

for (const qemu of LONG ? QEMUS : (['7.2'] as const)) {
  for (const mergeable of LONG ? [true, false] : [false]) {
    const properties = ['disable-legacy=off', 'disable-modern=on', `mrg_rxbuf=${mergeable ? 'on' : 'off'}`];
    const header = mergeable ? 12 : 10;
    vhostTest(`a legacy device, headers of ${header} bytes`, qemu, { properties }, async (vm, backend, t) => {
      const bits = await features(vm);
      assert.equal(bits[BIT.VERSION_1], '0');
      assert.equal(bits[BIT.MRG_RXBUF], mergeable ? '1' : '0');
      await pingAndTcp(vm, backend, t);
    });
  }
}

for (const packed of LONG ? [false, true] : []) {
  const name = `${PAIRS} ${packed ? 'packed' : 'split'} queue pairs, traffic on many of them`;
  vhostTest(name, '11.1', { queues: PAIRS, packed }, async (vm, backend, t) => {
    const inUse = await vm.run('ls -d /sys/class/net/eth0/queues/tx-* | wc -l');
    assert.equal(inUse.trim(), String(PAIRS));
    await pingAndTcp(vm, backend, t, { streams: 3 * PAIRS });
    const { queues } = await backend.program.counters();
    for (const direction of ['tx', 'rx'] as const) {
      const packets = queues.filter(queue => queue.direction === direction).map(queue => queue.packets);
      t.diagnostic(`${direction}, packets by pair: ${packets}`);
      assert.equal(packets.length, PAIRS);
      // Whoever sends chooses by a hash or by the processor: not all have to have some.
      assert.ok(packets.filter(n => n > 50).length > PAIRS / 2, `${direction}: ${packets}`);
    }
  });
}
