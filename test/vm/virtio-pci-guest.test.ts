/**
 * Our virtio driver inside a guest, by VFIO, on the virtio card of QEMU itself: a device that others have written.
 *
 * ```
 *   guest                                                           QEMU                         host
 *   TAP drv0 10.9.0.2 ══ polynic guest ── vfio-pci ── IOMMU ── virtio-net-pci ══ TAP hst0 10.9.0.1
 * ```
 */
import assert from 'node:assert/strict';
import { Cable, HOST_IP, shown } from '../../src/vm/cable.js';
import { FIRST_FD, Vm } from '../../src/vm/vm.js';
import { LONG, vmTest } from './kit/needs.js';

const QEMU = '11.1';
const POLYNIC = 'node /polynic/bin/polynic.js';
const ADDRESS = '0000:01:00.0';
const MAC = '02:00:00:00:00:02';
const BYTES = 5_000_000;
const QUEUES = 2;

/** Two minutes in software emulation. */
if (LONG)
  vmTest("our driver on QEMU's virtio card: split and packed, two pairs", QEMU, async t => {
    const cable = new Cable();
    try {
      const taps = cable.openTap(QUEUES);
      await using vm = await Vm.start({
        ...{ qemu: QEMU, image: 'node', cpus: 2, fds: taps, append: 'intel_iommu=on' },
        args: [
          '-machine',
          'kernel-irqchip=split',
          '-device',
          'intel-iommu,intremap=on,caching-mode=on,device-iotlb=on',
        ],
        nics: [
          {
            ...{ kind: 'tap', fds: taps.map((_, i) => FIRST_FD + i), queues: QUEUES, mac: MAC },
            properties: ['bus=port0', 'disable-legacy=on', 'iommu_platform=on', 'ats=on', 'packed=on'],
          },
        ],
      });
      await vm.run('load vfio; load tun; echo 64 >/proc/sys/vm/nr_hugepages');
      for (const words of ['', '--packed']) {
        await vm.run(`
        ${POLYNIC} guest --pci ${ADDRESS} --netdev tap:drv0 -v ${words} </dev/null >/tmp/log 2>&1 & echo $! >/tmp/pid
        until [ -d /sys/class/net/drv0 ]; do kill -0 $(cat /tmp/pid) || { cat /tmp/log >&2; exit 1; }; usleep 50000; done
        ip addr add 10.9.0.2/24 dev drv0; ip link set drv0 up
        until grep -q 'device running' /tmp/log; do kill -0 $(cat /tmp/pid) || { cat /tmp/log >&2; exit 1; }; usleep 50000; done`);
        assert.equal((await vm.run('cat /sys/class/net/drv0/address')).trim(), MAC);
        t.diagnostic(await cable.ping(vm));
        t.diagnostic(shown(await cable.tcp(vm, BYTES, 4)));
        const log = await vm.run(`
        ip link set drv0 down; ip link set drv0 up; until ping -c 1 -W 1 ${HOST_IP} >/dev/null; do :; done
        kill $(cat /tmp/pid); while [ "$(ls /proc/$(cat /tmp/pid)/fd 2>/dev/null)" ]; do usleep 20000; done; cat /tmp/log`);
        assert.match(
          log,
          new RegExp(`${QUEUES} queue pair\\(s\\), 256 descriptors, ${words ? 'packed' : 'split'}`),
        );
        assert.doesNotMatch(log, / (warn|error) /);
      }
      assert.equal(
        (await vm.run(`basename $(readlink /sys/bus/pci/devices/${ADDRESS}/driver)`)).trim(),
        'virtio-pci',
      );
    } finally {
      cable.close();
    }
  });
