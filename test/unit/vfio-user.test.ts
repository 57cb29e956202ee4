/** Both ends of vfio-user with each other, over a function that takes notes. */
import assert from 'node:assert/strict';
import { socketChannel } from '../../src/control/bpfhv-proxy/channel.js';
import {
  FEATURE_FLAG,
  IRQ_SET,
  serveVfioUser,
  type VfioClientOptions,
  type VfioServerOptions,
  VfioUserClient,
} from '../../src/control/vfio-user/index.js';
import { EventFd } from '../../src/linux/eventfd.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { leakTest } from '../../src/linux/testing.js';
import { socketPair } from '../../src/linux/unix-socket.js';
import { IRQ } from '../../src/linux/vfio-numbers.js';
import { NoteTakingFunction } from './vfio-user-peer.js';

async function pair(
  fn: NoteTakingFunction,
  { server, client }: { server?: VfioServerOptions; client?: VfioClientOptions } = {},
) {
  const [mine, theirs] = socketPair('vfio-user');
  const refusals: string[] = [];
  const onRefused = (command: string, error: Error) => void refusals.push(`${command}: ${error.message}`);
  const ended = serveVfioUser(socketChannel(theirs), fn, { onRefused, ...server });
  return { client: await VfioUserClient.connect(socketChannel(mine), client), ended, refusals };
}

leakTest('a client learns what there is, reads, writes, maps and connects', async () => {
  const fn = new NoteTakingFunction();
  const { client, ended, refusals } = await pair(fn);
  assert.deepEqual(client.capabilities, {
    maxMsgFds: 8,
    maxDataXferSize: 1 << 20,
    maxDmaMaps: 65535,
    pgsizes: 4096,
    writeMultiple: false,
  });
  assert.deepEqual(await client.getInfo(), { flags: 3, numRegions: 9, numIrqs: 5 });
  const bar0 = { index: 0, flags: 3, size: 8192n, offset: 0n, areas: null, caps: [], fd: null };
  assert.deepEqual(await client.getRegionInfo(0), bar0);
  assert.deepEqual(await client.getIrqInfo(IRQ.MSIX), { flags: 1, count: 32 });

  const ram = createMemfd({ name: 'ram', size: 1 << 20 });
  await client.dmaMap({ iova: 0n, size: 1n << 20n, fd: ram });
  await client.dmaUnmap(0n, 1n << 20n);
  await client.regionWrite(0, 0x10, Uint8Array.of(1, 2, 3, 4));
  await client.regionWrite(0, 0x14, Uint8Array.of(5), { posted: true });
  assert.deepEqual([...(await client.regionRead(0, 0x10, 8))], [1, 2, 3, 4, 5, 0, 0, 0]);
  const eventfds = Array.from({ length: 20 }, (_, i) => EventFd.create(`vector ${i}`));
  await client.connectIrqs(
    IRQ.MSIX,
    0,
    eventfds.map(({ owner }) => owner),
  );
  assert.ok(fn.signal(IRQ.MSIX, 19));
  assert.equal(eventfds[19]!.drain(), 1);
  await client.setIrqs({
    ...{ flags: IRQ_SET.DATA_NONE | IRQ_SET.TRIGGER, index: IRQ.MSIX, start: 3, count: 2 },
  });
  assert.equal(eventfds[4]!.drain(), 1);
  await client.disableIrqs(IRQ.MSIX);
  await client.reset();
  await assert.rejects(client.deviceFeature(1 | FEATURE_FLAG.PROBE), { code: 'VFIO_REFUSED', errno: 25 });
  await assert.rejects(client.migDataRead(100), { code: 'VFIO_REFUSED', errno: 95 });
  assert.deepEqual(await client.getIoFds(0), { entries: [], fds: [] });
  client.close();
  assert.equal(await client.closed, null);
  const end = await ended;
  assert.equal(end.error, null);
  assert.equal(end.refused, 2);
  assert.equal(refusals.length, 2);
  assert.equal(fn.calls.at(-1), 'disconnect()');
  ram.close();
  for (const eventfd of eventfds) eventfd.close();
});
