/**
 * `polynic guest --vfio-user` on a virtio card that this process serves: a guest that is a process, a device that is another's, which goes and comes back.
 *
 * ```
 *   polynic guest ── source ◄─► VirtioDriver ══ vfio-user ══ this process: VirtioNetFunction ── VirtioNic ◄─► source
 * ```
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import * as L from '../../datapath/layout.js';
import { socketChannel } from '../../src/control/bpfhv-proxy/channel.js';
import { serveVfioUser, type VfioSessionEnd } from '../../src/control/vfio-user/index.js';
import { UnixListener } from '../../src/linux/unix-listener.js';
import { VirtioNic } from '../../src/nic/virtio-nic.js';
import { VirtioNetFunction, type VirtioNetFunctionOptions } from '../../src/pci/virtio/index.js';
import { readFlow } from '../../src/port/flow.js';
import { openPort } from '../../src/port/registry.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena, eventually, window } from '../compliance/testbed.js';
import { Program } from './program.js';

const FRAMES = 5000;
const PAIRS = 2;

/** A card behind a socket, which one guest after the other may use. */
async function served(options: Partial<VirtioNetFunctionOptions> = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'polynic-card-'));
  const path = join(folder, 'nic.sock');
  const port = openPort('source', { window, arena }, PAIRS);
  const nic = await VirtioNic.start({ window, arena, port, limits: { queuePairs: PAIRS, bufs: 1024 } });
  const fn = new VirtioNetFunction({ nic, window, mac: Uint8Array.of(2, 0, 0, 0, 0, 7), ...options });
  const sessions: Promise<VfioSessionEnd>[] = [];
  const refused: string[] = [];
  let hangUp = new AbortController();
  const listener = UnixListener.listen(path);
  listener.onConnection(
    socket => {
      hangUp = new AbortController();
      const onRefused = (command: string, error: Error) => refused.push(`${command}: ${error.message}`);
      sessions.push(serveVfioUser(socketChannel(socket), fn, { onRefused, signal: hangUp.signal }));
    },
    error => refused.push(String(error)),
  );
  return {
    ...{ path, nic, refused },
    /** Frames that a pair has brought here. */
    arrived: (pair: number) => readFlow(window, port.lanes[pair]!.state + L.PORT_SIZE),
    /** The guest loses its device. */
    async pull() {
      hangUp.abort();
      await sessions.at(-1);
    },
    async close() {
      listener.close();
      hangUp.abort();
      await Promise.all(sessions);
      fn.close();
      await nic.close();
      port.close();
      rmSync(folder, { recursive: true });
    },
  };
}

const ME = ['--child-of', String(process.pid), '-v'];

for (const packed of [false, true]) {
  test(`${packed ? 'packed' : 'split'}: two pairs, frames both ways, a device that is lost and found`, {
    timeout: 120_000,
  }, async () => {
    const card = await served();
    const words = ['guest', '--vfio-user', card.path, '--netdev', 'source', ...ME];
    const guest = new Program([...words, ...(packed ? ['--packed'] : [])]);
    try {
      for (let round = 0; round < 2; round++) {
        const before = card.arrived(0).sequence;
        await eventually(() => card.nic.running);
        assert.equal((card.nic.agreed & F.RING_PACKED) !== 0n, packed);
        await eventually(() => card.arrived(0).sequence > before + FRAMES);
        const { queues } = await guest.counters();
        assert.ok(queues.length === 2 * PAIRS && queues.every(({ packets }) => packets > 0));
        if (round === 0) await card.pull();
      }
      assert.ok(card.arrived(0).outOfOrder <= 1);
      assert.deepEqual(await guest.end(), { code: 0, signal: null });
      assert.deepEqual(guest.left, { fds: 0, mappings: 0, buffers: 0 });
      assert.deepEqual(card.refused, []);
    } finally {
      if (guest.alive) await guest.end('SIGKILL');
      await card.close();
    }
  });
}

test('a key is of no use there, and is refused', { timeout: 120_000 }, async () => {
  const card = await served();
  const guest = new Program([
    'guest',
    '--vfio-user',
    card.path,
    '--netdev',
    'sink',
    '--key-file',
    '/dev/null',
    ...ME,
  ]);
  try {
    const { code } = await guest.ended;
    assert.notEqual(code, 0);
    assert.match(guest.stderr, /key/);
  } finally {
    await card.close();
  }
});
