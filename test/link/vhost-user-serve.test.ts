/**
 * `polynic serve --vhost-user` as a process, with our own front end and driver: connecting and listening, killed and back, watched, its port changed.
 *
 * ```
 *   test: VhostUserFrontend, VirtqDriver ── SOCKET, shared memory ── polynic serve ── source | sink
 * ```
 */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { eventually, leakTest } from '../../src/linux/testing.js';
import { UnixListener } from '../../src/linux/unix-listener.js';
import { connectUnix, type UnixSocket } from '../../src/linux/unix-socket.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena } from '../compliance/testbed.js';
import { Program } from './program.js';
import { Machine } from './virtio-machine.js';

const ACCEPT = F.VERSION_1 | F.RING_PACKED | F.EVENT_IDX;

function serveTest(
  name: string,
  body: (machine: Machine, serve: (...words: string[]) => Program, folder: string) => Promise<void>,
): void {
  leakTest(name, async () => {
    const live = arena.live;
    const folder = mkdtempSync(join(tmpdir(), 'polynic-serve-'));
    const machine = new Machine(ACCEPT);
    const programs: Program[] = [];
    try {
      const serve = (...words: string[]) => {
        const program = new Program(['serve', '-v', '--child-of', String(process.pid), ...words]);
        programs.push(program);
        return program;
      };
      await body(machine, serve, folder);
    } finally {
      for (const program of programs) if (program.alive) await program.end();
      machine.close();
      rmSync(folder, { recursive: true });
    }
    for (const { ending, left, output } of programs) {
      if (ending?.signal === 'SIGKILL') continue;
      assert.equal(ending?.code, 0, output);
      assert.deepEqual(left, { fds: 0, mappings: 0, buffers: 0 }, output);
    }
    assert.equal(arena.live, live);
  });
}

serveTest(
  'it listens: frames go both ways, it can be watched, its port changed; killed, it comes back',
  async (machine, serve, folder) => {
    const socket = join(folder, 'nic.sock');
    const begin = async (): Promise<Program> => {
      const program = serve('--vhost-user', socket, '--port', 'source');
      await machine.start(await eventually(() => connected(socket), 20_000));
      return program;
    };
    const program = await begin();
    await machine.send(500);
    await machine.receive(500);
    const counters = await program.counters();
    assert.equal(counters.queues.find(({ direction }) => direction === 'tx')!.packets, 500);
    assert.equal(machine.received.outOfOrder, 0);

    const { ok: info } = await program.request({ op: 'info' });
    assert.deepEqual(
      (({ device, connected, running, queues }) => ({ device, connected, running, queues }))(info as never),
      {
        ...{ device: 'virtio', connected: true, running: true, queues: 2 },
      },
    );
    const { ok: dump } = (await program.request({ op: 'dump' })) as { ok: { text?: string } };
    assert.match(JSON.stringify(dump), /ring 1 tx: started, enabled, 128 descriptors/);
    assert.equal(
      (await program.request({ op: 'upgrade', device: 'sring' })).error?.code,
      'NIC_UPGRADE_FIXED',
    );
    assert.equal(
      (await program.request({ op: 'upgrade', offload: 'none' })).error?.code,
      'NIC_UPGRADE_FIXED',
    );
    assert.equal((await program.request({ op: 'upgrade', port: 'sink', spin: true })).error, undefined);
    await machine.send(200);
    assert.equal((await program.counters()).flow?.sequence, 700); // its number goes on

    await program.end('SIGKILL');
    await machine.frontend!.closed;
    const again = await begin();
    await machine.send(300);
    await machine.receive(100);
    assert.equal((await again.end()).code, 0);
    assert.ok(!existsSync(socket), 'it takes its socket with it');
  },
);

serveTest('it connects, and does so again when the front end is back', async (machine, serve, folder) => {
  const socket = join(folder, 'machine.sock');
  const program = serve('--vhost-user', socket, '--connect', '--port', 'sink', '--spin');
  for (let round = 1; round <= 3; round++) {
    const listener = UnixListener.listen(socket);
    const connection = await new Promise<UnixSocket>((resolve, reject) =>
      listener.onConnection(resolve, reject),
    );
    await machine.start(connection);
    await machine.send(100);
    listener.close();
    machine.frontend!.close();
  }
  const { queues } = await program.counters();
  assert.equal(queues.find(({ direction }) => direction === 'tx')!.packets, 300);
});

function connected(socket: string): UnixSocket | null {
  try {
    return connectUnix(socket);
  } catch {
    return null; // not yet
  }
}
