/**
 * What needs more of a kernel than a machine for tests may have, inside a guest, with traffic between two namespaces: our virtio driver on the kernel's vhost-net, TAPs
 * and macvtaps behind it; a macvtap behind our own backend.
 *
 * ```
 *   namespace      gst0 10.9.0.2 ══ TAP ══ polynic guest ── rings ──┬── vhost-net ────── TAP ═════ hst0 10.9.0.1        the guest's own namespace
 *                                                                   ├── vhost-net ────── macvtap ══ veth ── peer 10.9.0.1
 *                                                                   └── polynic serve ── macvtap ══ veth ── peer 10.9.0.1
 * ```
 */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { Vm } from '../../src/vm/vm.js';
import { vmTest } from './kit/needs.js';

const QEMU = '11.1';
const GUEST = '02:00:00:00:00:02';
const MEGABYTES = 20;
const POLYNIC = 'node /polynic/bin/polynic.js';
const IN = 'nsenter --net=/tmp/ns';

/** A macvtap with the guest's address, and where its cable ends. */
const MACVTAP = `
  ip link add lower type veth
  peer=$(ls /sys/class/net | grep '^veth'); ip link set $peer name peer; ip link set lower up
  ip link add link lower name mvt0 address ${GUEST} type macvtap; ip link set mvt0 up`;

/** Boots a machine with a second namespace, which `/tmp/ns` stands for. */
async function boot(): Promise<Vm> {
  const vm = await Vm.start({ qemu: QEMU, image: 'node', cpus: 2 });
  await vm.run(`
    load tun; load vhost_net; load veth; load macvtap
    touch /tmp/ns
    unshare --net sh -c 'ip link set lo up; mount --bind /proc/self/ns/net /tmp/ns'
    dd if=/dev/urandom of=/tmp/noise bs=1M count=${MEGABYTES} 2>/dev/null`);
  return vm;
}

/** Starts the driver on `backend`, in words for it, and gives both ends their addresses; `name` is the interface of the other end, which it may be waited for. */
async function drive(vm: Vm, backend: string, name: string, words = ''): Promise<void> {
  await vm.run(`
    ${POLYNIC} guest ${backend} --netdev tap:gst0,netns=/tmp/ns --mac ${GUEST} -v ${words} \\
      </dev/null >/tmp/log 2>&1 & echo $! >/tmp/pid
    until [ -d /sys/class/net/${name} ] && ${IN} ip link show gst0 2>/dev/null | grep -q ${GUEST}; do
      alive $(cat /tmp/pid) || { cat /tmp/log >&2; exit 1; }
      usleep 50000
    done
    ip addr add 10.9.0.1/24 dev ${name}; ip link set ${name} up
    ${IN} ip addr add 10.9.0.2/24 dev gst0; ${IN} ip link set gst0 up
    until grep -q 'device running' /tmp/log; do usleep 50000; done`);
}

/** Both ends ping and move noise both ways, each byte of it. */
async function traffic(vm: Vm, t: TestContext): Promise<void> {
  const said = await vm.run(`${IN} ping -c 5 -i 0.2 -W 10 10.9.0.1`);
  assert.match(said, /5 packets transmitted, 5 packets received/);
  t.diagnostic(/round-trip.*/.exec(said)?.[0] ?? '');
  for (const [from, to, ip] of [
    ['', IN, '10.9.0.2'],
    [IN, '', '10.9.0.1'],
  ] as const) {
    const begun = performance.now();
    const sums = await vm.run(`
      rm -f /tmp/never; mkfifo /tmp/never # nc ends with the connection, or the other way round
      ${to} nc -l -p 5000 <>/tmp/never >/tmp/got & server=$!
      until ${to} netstat -ltn | grep -q :5000; do usleep 20000; done
      ${from} nc ${ip} 5000 </tmp/noise; wait $server
      md5sum </tmp/noise; md5sum </tmp/got`);
    const [sent, got] = sums.split('\n');
    assert.equal(got, sent, `noise to ${ip}`);
    const rate = ((MEGABYTES * 1000) / (performance.now() - begun)).toFixed(1);
    t.diagnostic(`${MEGABYTES} MB to ${ip}, ${rate} MB a second`);
  }
}

/** Ends the driver: in good order, and nothing is left of it. */
async function end(vm: Vm): Promise<string> {
  const output = await vm.run(`
    kill $(cat /tmp/pid); while alive $(cat /tmp/pid); do usleep 20000; done
    cat /tmp/log`);
  assert.doesNotMatch(output, / (warn|error) /);
  assert.match(output, /device stopped/);
  return output;
}

vmTest("the kernel's vhost-net behind our driver, with a TAP", QEMU, async t => {
  await using vm = await boot();
  for (const words of ['', '--offload none --queues 2']) {
    try {
      await drive(vm, '--vhost-kernel --tap-backend hst0', 'hst0', words);
      await traffic(vm, t);
      await vm.run(
        `${IN} ip link set gst0 down; until grep -q 'device stopped' /tmp/log; do usleep 20000; done`,
      );
      await vm.run(
        `${IN} ip link set gst0 up; until [ $(grep -c 'device running' /tmp/log) = 2 ]; do usleep 20000; done`,
      );
      await vm.run(`${IN} ping -c 5 -i 0.2 -W 10 10.9.0.1`);
    } catch (error) {
      t.diagnostic((await vm.try('cat /tmp/log')).stdout);
      throw error;
    }
    const output = await end(vm);
    t.diagnostic(/device running: (.*)/.exec(output)![1]!);
    assert.equal(await vm.run('ls /sys/class/net | grep -c hst0 || true'), '0\n', 'the TAP is gone');
  }
});

vmTest('the same with a macvtap', QEMU, async t => {
  await using vm = await boot();
  await vm.run(MACVTAP);
  try {
    await drive(vm, '--vhost-kernel --tap-backend mvt0', 'peer');
    await traffic(vm, t);
  } catch (error) {
    t.diagnostic((await vm.try('cat /tmp/log; ip link; ls /dev/tap*')).stdout);
    throw error;
  }
  // The interface goes, and with it the card: nobody would notice by reading and writing.
  const output = await vm.run(`
    ip link del mvt0; while alive $(cat /tmp/pid); do usleep 20000; done
    cat /tmp/log`);
  assert.match(output, /interface mvt0 was deleted/);
  t.diagnostic(/device running: (.*)/.exec(output)![1]!);
});

vmTest('a macvtap behind our own backend', QEMU, async t => {
  await using vm = await boot();
  await vm.run(`${MACVTAP}
    ${POLYNIC} serve --vhost-user /tmp/nic.sock --port macvtap:mvt0 -v </dev/null >/tmp/serve.log 2>&1 &
    echo $! >/tmp/serve.pid
    until [ -S /tmp/nic.sock ]; do
      alive $(cat /tmp/serve.pid) || { cat /tmp/serve.log >&2; exit 1; }
      usleep 20000
    done`);
  try {
    for (const words of ['', '--packed', '--offload none']) {
      await drive(vm, '--vhost-user /tmp/nic.sock', 'peer', words);
      await traffic(vm, t);
      t.diagnostic(/device running: (.*)/.exec(await end(vm))![1]!);
      await vm.run('ip addr flush dev peer');
    }
    const said = await vm.run(`
      kill $(cat /tmp/serve.pid); while alive $(cat /tmp/serve.pid); do usleep 20000; done
      cat /tmp/serve.log; [ ! -e /tmp/nic.sock ]`);
    assert.doesNotMatch(said, / (warn|error) /);
  } catch (error) {
    t.diagnostic((await vm.try('cat /tmp/log /tmp/serve.log; ip link; ls /dev/tap*')).stdout);
    throw error;
  }
});
