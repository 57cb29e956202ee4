/** The front end's end of vhost-user: against our backend, and against backends that lie. */
import assert from 'node:assert/strict';
import { socketChannel } from '../../src/control/bpfhv-proxy/channel.js';
import {
  encodeAck,
  encodeReply,
  PROTOCOL_FEATURE,
  serveVhostUser,
  VhostUserFrontend,
} from '../../src/control/vhost-user/index.js';
import { eventually, leakTest } from '../../src/linux/testing.js';
import { socketPair } from '../../src/linux/unix-socket.js';
import { anFd, NoteTakingVhost } from './vhost-user-peer.js';

leakTest('says what a backend needs to hear, and believes or asks', async () => {
  const [mine, theirs] = socketPair('vhost-user');
  const nic = new NoteTakingVhost();
  const ended = serveVhostUser(socketChannel(theirs), nic);
  const frontend = new VhostUserFrontend(socketChannel(mine));
  const [memory, signal] = [anFd(), anFd()];
  const region = {
    guestPhysicalAddress: 0n,
    size: 4096n,
    userspaceAddress: 8192n,
    mmapOffset: 0n,
    fd: memory,
  };

  assert.equal(await frontend.getFeatures(), nic.offered | (1n << 30n));
  await frontend.tell('SET_OWNER', {});
  await frontend.negotiateProtocol(
    PROTOCOL_FEATURE.REPLY_ACK | PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS | (1n << 16n),
  );
  assert.equal(frontend.protocol, PROTOCOL_FEATURE.REPLY_ACK | PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS);
  await frontend.tell('SET_FEATURES', { value: 3n | (1n << 30n) });
  await frontend.setMemTable([region]);
  await frontend.addMemRegion({ ...region, guestPhysicalAddress: 4096n });
  await frontend.removeMemRegion(region);
  await frontend.setVringFd('SET_VRING_KICK', 0, signal);
  await frontend.setVringFd('SET_VRING_CALL', 1, null);
  assert.equal(await frontend.stopVring(1), 41);
  nic.refusing.add('enableVring');
  await assert.rejects(frontend.tell('SET_VRING_ENABLE', { index: 0, num: 1 }), { code: 'VHOST_REFUSED' });
  assert.equal(await frontend.stopVring(0), 40, 'a refusal does not end the connection');
  await assert.rejects(frontend.setMemTable(new Array(9).fill(region)), RangeError);
  frontend.close();
  assert.equal(await frontend.closed, null);
  await assert.rejects(frontend.getFeatures(), { code: 'VHOST_CLOSED' });
  assert.equal((await ended).error, null);
  memory.close();
  signal.close();
  assert.deepEqual(nic.calls.slice(0, 6), [
    'setFeatures(0x3)',
    'setMemoryTable(0+4096 at 8192)',
    'addRegion(4096+4096 at 8192)',
    'removeRegion(0+4096 at 8192)',
    'setVringKick(0, fd)',
    'setVringCall(1, none)',
  ]);
});

/** A backend that answers whatever comes with these bytes. */
const LIES: readonly (readonly [what: string, answer: Uint8Array | null, code: string])[] = [
  ['another request', encodeReply('GET_QUEUE_NUM', { value: 1n }), 'VHOST_REPLY'],
  ['no reply flag', patched(encodeReply('GET_FEATURES', { value: 1n }), 4, 1), 'VHOST_FLAGS'],
  ['version 2', patched(encodeReply('GET_FEATURES', { value: 1n }), 4, 6), 'VHOST_VERSION'],
  ['too short', encodeAck(1, true).slice(0, 12), 'VHOST_TIMEOUT'],
  ['an empty one', patched(encodeReply('GET_FEATURES', { value: 1n }), 8, 0).slice(0, 12), 'VHOST_SIZE'],
  [
    'one that never ends',
    patched(encodeReply('GET_FEATURES', { value: 1n }), 8, 0xffff_ffff),
    'VHOST_OVERSIZE',
  ],
  ['nothing', null, 'VHOST_TIMEOUT'],
];

for (const [what, answer, code] of LIES) {
  leakTest(`a backend that answers with ${what} is hung up on`, async () => {
    const [mine, theirs] = socketPair('vhost-user');
    const frontend = new VhostUserFrontend(socketChannel(mine), {
      replyTimeoutMs: 100,
      messageTimeoutMs: 50,
    });
    if (answer)
      theirs.onReadable(() => {
        theirs.onReadable(null);
        theirs.send(answer);
      });
    await assert.rejects(frontend.getFeatures(), { code });
    assert.equal((await frontend.closed)?.code, code);
    theirs.close();
  });
}

leakTest('a backend that says what nobody asked, or sends descriptors, is hung up on', async () => {
  const [mine, theirs] = socketPair('vhost-user');
  const frontend = new VhostUserFrontend(socketChannel(mine));
  const gift = anFd();
  theirs.send(encodeReply('GET_FEATURES', { value: 1n }), [gift.fd]);
  assert.equal((await frontend.closed)?.code, 'VHOST_REPLY');
  await eventually(() => theirs.receive(new Uint8Array(1))?.bytes === 0);
  gift.close();
  theirs.close();
});

function patched(bytes: Uint8Array, at: number, value: number): Uint8Array {
  const copy = bytes.slice();
  new DataView(copy.buffer).setUint32(at, value, true);
  return copy;
}
