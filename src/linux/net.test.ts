/** Namespaces, netlink, TAP devices and sockets together: small networks of unnamed namespaces. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readlinkSync } from 'node:fs';
import { test } from 'node:test';
import { EventFd } from './eventfd.js';
import type { OwnedFd } from './fd.js';
import { formatIp, formatMac, parseIp, parseMac, parsePrefix } from './ip-address.js';
import { addressOf, readv, writev } from './libc.js';
import { changeLink, createVeth, deleteLink, linkInfo } from './link.js';
import { openMacvtap } from './macvtap.js';
import { canCreateNamespaces, createNetns, currentNetns, inNetns, openNetns } from './netns.js';
import { POLLIN, Poller } from './poll.js';
import { haveNetAdmin } from './process.js';
import { addAddress, addRoute, removeAddress, removeRoute, setNeighbour } from './route.js';
import { listenTcp, openPacket, openPing, openTcp, openUdp } from './socket.js';
import { readSysctl, silenceIpv6, writeSysctl } from './sysctl.js';
import { eventually, leakTest, rootTest, text } from './testing.js';
import { openTap, TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6 } from './tun.js';
import { UdpBatch } from './udp-batch.js';

const VNET = 12;
const identity = (netns?: OwnedFd) => inNetns(netns, () => readlinkSync('/proc/thread-self/ns/net'));

/** One buffer behind an iovec of one entry, as the datapath uses them. */
function vector(size: number) {
  const bytes = new Uint8Array(size);
  const iovec = new BigUint64Array([BigInt(addressOf(bytes)), BigInt(size)]);
  return { bytes, iovec, address: addressOf(iovec) };
}

function frame(payload: string): Uint8Array {
  const bytes = new Uint8Array(60);
  bytes.set([2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 0x88, 0xb5]); // an EtherType for experiments
  bytes.set(new TextEncoder().encode(payload), 14);
  return bytes;
}

test('addresses between text and bytes', () => {
  const hex = (s: string) => Buffer.from(parseIp(s).bytes).toString('hex');
  assert.deepEqual([...parseIp('10.0.0.255').bytes], [10, 0, 0, 255]);
  assert.equal(hex('::'), '0'.repeat(32));
  assert.equal(hex('fd00::1:2'), 'fd000000000000000000000000010002');
  assert.equal(hex('1:2:3:4:5:6:7:8'), '00010002000300040005000600070008');
  assert.equal(hex('::ffff:1.2.3.4'), '00000000000000000000ffff01020304');
  assert.equal(formatIp(parseIp('fd00::1').bytes), 'fd00:0:0:0:0:0:0:1');
  assert.equal(parsePrefix('10.0.0.0/8').prefixLength, 8);
  assert.equal(parsePrefix('::1').prefixLength, 128);
  for (const bad of ['', '10.0.0', '10.0.0.1/33', '10.0.0.1/', '10.0.0.1/8/8', 'fe80::1%eth0', '1::2::3'])
    assert.throws(() => parsePrefix(bad), { code: 'ERR_ADDRESS' }, bad);
  assert.equal(formatMac(parseMac('02:00:AB:00:00:01')), '02:00:ab:00:00:01');
  assert.throws(() => parseMac('02:00:00:00:00'), { code: 'ERR_ADDRESS' });
});

rootTest('a thread goes into a namespace and always comes back', () => {
  assert.ok(haveNetAdmin());
  assert.ok(canCreateNamespaces());
  const home = identity();
  const netns = createNetns();
  assert.equal(identity(), home);
  assert.notEqual(identity(netns), home);
  assert.equal(identity(), home);
  assert.throws(() => inNetns(netns, () => assert.fail('inside')), /inside/);
  assert.equal(identity(), home);
  const byPath = openNetns(`/proc/${process.pid}/fd/${netns.fd}`);
  assert.equal(identity(byPath), identity(netns));
  assert.throws(() => openNetns('no-such-name'), {
    code: 'ENOENT',
    message: 'open /run/netns/no-such-name: ENOENT (no such file or directory)',
  });
  const own = currentNetns();
  assert.equal(identity(own), home);
  own.close();
  byPath.close();
  netns.close();
});

rootTest('a frame goes out through a TAP with its header, and another one back in', () => {
  const netns = createNetns();
  silenceIpv6(netns);
  const tap = openTap({
    name: 'tap%d',
    netns,
    offloads: TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN,
  });
  assert.equal(tap.name, 'tap0');
  tap.mac = parseMac('02:00:00:00:00:08');
  assert.equal(formatMac(tap.mac), '02:00:00:00:00:08');
  assert.equal(linkInfo('tap0', netns).mac, '02:00:00:00:00:08');
  assert.throws(() => linkInfo('tap0'), { code: 'ENODEV' }, 'not in our own namespace');
  tap.setSendBuffer(1 << 20);
  changeLink('tap0', { up: true, mtu: 1400 }, netns);
  const packet = openPacket('tap0', { netns }).setTimeouts(5000);

  const { bytes, address } = vector(2048);
  assert.equal(readv(tap.fd, address, 1), -11, 'EAGAIN: nothing there');
  const out = frame('to the tap');
  assert.equal(packet.send(out, out.length), out.length);
  assert.equal(readv(tap.fd, address, 1), VNET + out.length);
  assert.deepEqual(bytes.slice(0, VNET), new Uint8Array(VNET));
  assert.deepEqual(bytes.slice(VNET, VNET + out.length), out);

  const back = vector(VNET + 60);
  back.bytes.set(frame('from the tap'), VNET);
  assert.equal(writev(tap.fd, back.address, 1), VNET + 60);
  assert.equal(packet.recv(bytes, bytes.length), 60);
  assert.equal(text(bytes.subarray(14, 26)), 'from the tap');

  const info = linkInfo('tap0', netns);
  assert.deepEqual([info.up, info.mtu, info.carrier], [true, 1400, true]);
  assert.equal(info.stats.txPackets, 1);
  assert.deepEqual([info.stats.rxPackets, info.stats.rxBytes], [1, 60 - 14 + 14]);
  tap.setVnetHeaderSize(10);
  assert.equal(packet.send(out, out.length), out.length);
  assert.equal(readv(tap.fd, address, 1), 10 + out.length);
  tap.setCarrier(false);
  assert.equal(linkInfo('tap0', netns).carrier, false);
  tap.setCarrier(true);
  assert.equal(linkInfo('tap0', netns).carrier, true);
  assert.throws(() => tap.setOffload(0x4000_0000), { code: 'EINVAL', call: 'ioctl TUNSETOFFLOAD' });
  assert.throws(() => openTap({ name: 'tap0', netns }), { code: 'EBUSY', message: /TUNSETIFF tap0/ });
  assert.throws(() => openTap({ name: 'much-too-long-a-name', netns }), RangeError);
  packet.close();
  tap.close();
  assert.throws(() => linkInfo('tap0', netns), { code: 'ENODEV' }, 'gone with its descriptor');
  netns.close();
});

rootTest('a macvtap that is deleted under its owner', t => {
  const netns = createNetns();
  const ip = (...words: string[]) => {
    const inside = [`--net=/proc/${process.pid}/fd/${netns.fd}`, 'ip', 'link', ...words];
    return spawnSync('nsenter', inside, { encoding: 'utf8' });
  };
  createVeth('low0', { name: 'low1' }, netns);
  const made = ip('add', 'link', 'low0', 'name', 'mvt0', 'type', 'macvtap');
  const index = made.status === 0 ? linkInfo('mvt0', netns).index : 0;
  if (made.status !== 0 || !existsSync(`/dev/tap${index}`)) {
    netns.close();
    return t.skip(`there are no macvtaps here: ${made.stderr || `no /dev/tap${index}`}`);
  }
  const queue = inNetns(netns, () => openMacvtap('mvt0'));
  assert.ok(queue.exists);
  assert.equal(ip('set', 'mvt0', 'up').status, 0);
  assert.ok(queue.exists, 'up or down');
  deleteLink('mvt0', netns);
  assert.ok(!queue.exists);
  assert.throws(() => queue.mac, { code: 'ENOLINK' });
  queue.close();
  netns.close();
});

rootTest('a TAP with two queues, and one without a header', () => {
  const netns = createNetns();
  const a = openTap({ name: 'mq0', netns, multiQueue: true, napi: true });
  const b = openTap({ name: 'mq0', netns, multiQueue: true, napi: true });
  b.setQueueAttached(false);
  b.setQueueAttached(true);
  a.close();
  assert.equal(linkInfo('mq0', netns).name, 'mq0', 'lives while one queue is open');
  b.close();
  const plain = openTap({ name: 'plain0', netns, vnetHeader: false });
  silenceIpv6(netns);
  changeLink('plain0', { up: true }, netns);
  const packet = openPacket('plain0', { netns });
  const { address } = vector(2048);
  packet.send(frame('x'), 60);
  assert.equal(readv(plain.fd, address, 1), 60);
  packet.close();
  plain.close();
  netns.close();
});

/** Two namespaces joined by a cable: 10.9.0.1 (a0) and 10.9.0.2 (b0). */
function cable(): { a: OwnedFd; b: OwnedFd; close(): void } {
  const a = createNetns('a');
  const b = createNetns('b');
  createVeth('a0', { name: 'b0', netns: b }, a);
  for (const [netns, name, ip] of [
    [a, 'a0', '10.9.0.1'],
    [b, 'b0', '10.9.0.2'],
  ] as const) {
    silenceIpv6(netns);
    addAddress(name, `${ip}/24`, netns);
    changeLink(name, { up: true }, netns);
    changeLink('lo', { up: true }, netns);
  }
  const close = () => {
    a.close();
    b.close();
  };
  return { a, b, close };
}

rootTest('UDP batches across two namespaces, counted by the interface', async () => {
  const { a, b, close } = cable();
  await eventually(() => linkInfo('a0', a).operationalState === 'up');
  setNeighbour('a0', '10.9.0.2', linkInfo('b0', b).mac, a);
  const server = openUdp('10.9.0.2', { netns: b }).bind({ ip: '10.9.0.2', port: 0 }).setTimeouts(5000);
  const { port } = server.localEndpoint();
  const client = openUdp('10.9.0.1', { netns: a }).connect({ ip: '10.9.0.2', port });
  server.setBuffers({ receive: 1 << 22, send: 1 << 20 });
  const out = new UdpBatch(32, 200);
  for (let i = 0; i < 32; i++) out.payload[i * 200] = i;
  const before = linkInfo('a0', a).stats;
  assert.equal(out.send(client.fd, 0, 32, 100), 32);
  assert.equal(out.send(client.fd, 30, 2, 200), 2);
  const got = new UdpBatch(64, 150);
  let received = 0;
  while (received < 34) {
    const count = got.receive(server.fd, true);
    assert.ok(count > 0, `${count}`);
    for (let i = 0; i < count; i++) {
      const n = received + i;
      assert.equal(got.length(i), n < 32 ? 100 : 150, 'cut to the slot');
      assert.equal(got.payload[i * 150], n < 32 ? n : n - 2);
    }
    received += count;
  }
  assert.equal(got.receive(server.fd), -11);
  const after = linkInfo('a0', a).stats;
  assert.equal(after.txPackets - before.txPackets, 34);
  assert.equal(after.txBytes - before.txBytes, 32 * 142 + 2 * 242);
  assert.ok(linkInfo('b0', b).stats.rxPackets >= 34);
  assert.throws(() => out.send(client.fd, 31, 2, 100), RangeError);
  client.close();
  server.close();
  close();
});

rootTest('TCP and an echo across two namespaces', async () => {
  const { a, b, close } = cable();
  await eventually(() => linkInfo('a0', a).operationalState === 'up');
  const listener = listenTcp({ ip: '10.9.0.2', port: 0 }, { netns: b, nonblocking: true });
  assert.equal(listener.accept(), null);
  const client = openTcp('10.9.0.1', { netns: a }).setTimeouts(5000).setNoDelay();
  client.connect(listener.localEndpoint());
  const server = (await eventually(() => listener.accept()))!.setTimeouts(5000);
  const big = new Uint8Array(1 << 16).fill(5);
  assert.equal(client.send(big, big.length), big.length);
  client.endSending();
  let total = 0;
  for (let n: number; (n = server.recv(big, big.length)) !== 0; total += n) assert.ok(n > 0, `${n}`);
  assert.equal(total, 1 << 16);
  const refused = openTcp('10.9.0.1', { netns: a }).setTimeouts(5000);
  assert.throws(() => refused.connect({ ip: '10.9.0.2', port: 1 }), {
    code: 'ECONNREFUSED',
    message: 'connect tcp 10.9.0.2:1: ECONNREFUSED (connection refused)',
  });

  const ping = openPing('10.9.0.2', { netns: a }).setTimeouts(5000).connect({ ip: '10.9.0.2', port: 0 });
  const echo = new Uint8Array([8, 0, 0, 0, 0x12, 0x34, 0, 1]);
  const sum = 0x0800 + 0x1234 + 1;
  echo.set([(~sum >> 8) & 0xff, ~sum & 0xff], 2);
  assert.equal(ping.send(echo, echo.length), echo.length);
  assert.equal(ping.recv(big, big.length), 28);
  assert.deepEqual([...big.subarray(20, 22), ...big.subarray(24, 28)], [0, 0, 0x12, 0x34, 0, 1]);
  for (const socket of [ping, refused, server, client, listener]) socket.close();
  close();
});

rootTest('addresses, routes, settings: set, refused when doubled, taken away', () => {
  const { a, b, close } = cable();
  assert.throws(() => addAddress('a0', '10.9.0.1/24', a), {
    code: 'EEXIST',
    message: 'add address 10.9.0.1/24 on a0: EEXIST (file already exists)',
  });
  const route = { to: '0.0.0.0/0', via: '10.9.0.2' };
  addRoute(route, a);
  assert.throws(() => addRoute(route, a), { code: 'EEXIST' });
  addRoute({ to: '10.20.0.0/16', device: 'a0' }, a);
  // A datagram to far away now has a way, and none without the default route.
  const udp = openUdp('10.9.0.1', { netns: a });
  udp.connect({ ip: '192.0.2.1', port: 9 });
  removeRoute(route, a);
  assert.throws(() => removeRoute(route, a), { code: 'ESRCH' });
  const cut = openUdp('10.9.0.1', { netns: a });
  assert.throws(() => cut.connect({ ip: '192.0.2.1', port: 9 }), { code: 'ENETUNREACH' });
  assert.throws(() => addRoute({ to: '10.30.0.0/16', via: '172.16.0.1' }, a), { code: 'ENETUNREACH' });
  removeAddress('a0', '10.9.0.1/24', a);
  assert.throws(() => removeAddress('a0', '10.9.0.1/24', a), { code: 'EADDRNOTAVAIL' });
  assert.throws(() => addAddress('nope', '10.9.0.1/24', a), { code: 'ENODEV' });

  writeSysctl('net/ipv4/ip_forward', 1, a);
  assert.equal(readSysctl('net/ipv4/ip_forward', a), '1');
  assert.equal(readSysctl('net/ipv4/ip_forward', b), '0');
  assert.throws(() => writeSysctl('net/ipv4/no_such_thing', 1, a), { code: 'ENOENT' });
  assert.throws(() => writeSysctl('net/../kernel/panic', 1, a), { code: 'EINVAL' });

  changeLink('a0', { up: false, mac: '02:00:00:00:00:77' }, a);
  assert.deepEqual([linkInfo('a0', a).up, linkInfo('a0', a).mac], [false, '02:00:00:00:00:77']);
  changeLink('a0', { moveTo: b }, a);
  assert.equal(linkInfo('a0', b).name, 'a0');
  deleteLink('a0', b);
  assert.throws(() => linkInfo('b0', b), { code: 'ENODEV' });
  assert.throws(() => deleteLink('b0', b), { code: 'ENODEV', message: /delete interface b0/ });
  udp.close();
  cut.close();
  close();
});

rootTest('IPv6 addresses and routes', t => {
  const { a, close } = cable();
  try {
    writeSysctl('net/ipv6/conf/a0/disable_ipv6', 0, a);
    addAddress('a0', 'fd09::1/64', a);
    addRoute({ to: '::/0', via: 'fd09::2', device: 'a0' }, a);
    setNeighbour('a0', 'fd09::2', '02:00:00:00:00:02', a);
    const udp = openUdp('fd09::1', { netns: a }).bind({ ip: 'fd09::1', port: 0 });
    udp.connect({ ip: '2001:db8::1', port: 9 });
    assert.equal(udp.localEndpoint().ip, 'fd09:0:0:0:0:0:0:1');
    udp.close();
  } catch (error) {
    if ((error as { code?: string }).code !== 'ENOENT') throw error;
    t.skip('this kernel has no IPv6');
  } finally {
    close();
  }
});

rootTest('a killed process leaves no namespace and no device', async () => {
  // The child joins its own namespace to ours by a cable and waits there; our end must vanish with it.
  const ours = createNetns('ours');
  const url = (name: string) => new URL(name, import.meta.url).href;
  const code = `
    import { createNetns, openNetns } from ${JSON.stringify(url('./netns.js'))};
    import { createVeth } from ${JSON.stringify(url('./link.js'))};
    import { openTap } from ${JSON.stringify(url('./tun.js'))};
    const theirs = createNetns('theirs');
    const ours = openNetns('/proc/${process.pid}/fd/${ours.fd}');
    createVeth('end', { name: 'far', netns: theirs }, ours);
    openTap({ name: 'tap9', netns: ours });
    process.stdout.write('ready');
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', code], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  assert.equal(linkInfo('end', ours).name, 'end');
  assert.equal(linkInfo('tap9', ours).name, 'tap9');
  child.kill('SIGKILL');
  await once(child, 'exit');
  for (const name of ['end', 'tap9'])
    await eventually(() => {
      try {
        linkInfo(name, ours);
        return false;
      } catch (error) {
        return (error as { code: string }).code === 'ENODEV';
      }
    });
  ours.close();
});

rootTest('a poller hears a frame on a TAP', () => {
  const netns = createNetns();
  silenceIpv6(netns);
  const tap = openTap({ name: 'tap0', netns });
  const stop = EventFd.create('stop');
  changeLink('tap0', { up: true }, netns);
  const packet = openPacket('tap0', { netns });
  const poller = new Poller(2);
  poller.set(0, stop.fd, POLLIN);
  poller.set(1, tap.fd, POLLIN);
  assert.equal(poller.wait(0), 0);
  packet.send(frame('x'), 60);
  assert.equal(poller.wait(5000), 1);
  assert.ok(poller.ready(1));
  packet.close();
  stop.close();
  tap.close();
  netns.close();
});

leakTest('without rights, the error says which call was refused', t => {
  if (process.geteuid!() === 0) return t.skip('runs as root, which may do everything');
  assert.throws(() => createNetns('mine'), {
    code: 'EPERM',
    message: 'unshare CLONE_NEWNET mine: EPERM (operation not permitted)',
  });
  assert.equal(canCreateNamespaces(), false);
});
