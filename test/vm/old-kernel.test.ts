/**
 * A TAP of Debian's kernel, which is older than some offloads: frames come from it as large as that kernel can hand them out.
 *
 * ```
 *   in a guest     hst0 10.9.0.1 ══ TAP ══ polynic serve ── vhost-user ── polynic guest ══ TAP ══ gst0 10.9.0.2
 * ```
 */
import assert from 'node:assert/strict';
import { Vm } from '../../src/vm/vm.js';
import { LONG, vmTest } from './kit/needs.js';

const POLYNIC = 'node /polynic/bin/polynic.js';
const IN = 'nsenter --net=/tmp/ns';

vmTest('large frames from a TAP that knows no USO', '11.1', async t => {
  if (!LONG) return t.skip('part of npm run test:vm');
  await using vm = await Vm.start({ qemu: '11.1', image: 'node', cpus: 2 });
  const release = await vm.run('uname -r');
  const [major, minor] = release.split('.').map(Number) as [number, number];
  if (major > 6 || (major === 6 && minor >= 2)) return t.skip(`Linux ${release.trim()} knows USO`);
  await vm.run(`
    load tun; touch /tmp/ns
    unshare --net sh -c 'ip link set lo up; mount --bind /proc/self/ns/net /tmp/ns'
    dd if=/dev/urandom of=/tmp/noise bs=1M count=5 2>/dev/null
    ${POLYNIC} guest --vhost-user /tmp/nic.sock --listen --netdev tap:gst0,netns=/tmp/ns -v </dev/null >/tmp/guest.log 2>&1 &
    ${POLYNIC} serve --vhost-user /tmp/nic.sock --connect --port tap:hst0 --name old -v </dev/null >/tmp/serve.log 2>&1 &
    until [ -d /sys/class/net/hst0 ] && ${IN} ip link show gst0 >/dev/null 2>&1; do usleep 50000; done
    ip addr add 10.9.0.1/24 dev hst0; ip link set hst0 up
    ${IN} ip addr add 10.9.0.2/24 dev gst0; ${IN} ip link set gst0 up
    until grep -q 'device running' /tmp/guest.log; do usleep 50000; done`);
  try {
    const sums = await vm.run(`
      mkfifo /tmp/never
      ${IN} nc -l -p 5000 <>/tmp/never >/tmp/got & server=$!
      until ${IN} netstat -ltn | grep -q :5000; do usleep 20000; done
      nc 10.9.0.2 5000 </tmp/noise; wait $server
      md5sum </tmp/noise; md5sum </tmp/got`);
    assert.equal(new Set(sums.trim().split('\n')).size, 1, sums);
    const stats = JSON.parse(await vm.run(`${POLYNIC} stats old --json`));
    const rx = stats.queues.find(({ direction }: { direction: string }) => direction === 'rx');
    t.diagnostic(
      `${rx.packets} packets of ${Math.round(rx.bytes / rx.packets)} bytes, ${stats.port.softened} cut`,
    );
    assert.ok(rx.bytes / rx.packets > 1600, JSON.stringify(stats));
    assert.match(
      await vm.run('cat /tmp/serve.log'),
      /hst0: this kernel hands out no large datagrams \(USO\)/,
    );
  } catch (error) {
    t.diagnostic((await vm.try('cat /tmp/serve.log /tmp/guest.log')).stdout);
    throw error;
  }
});
