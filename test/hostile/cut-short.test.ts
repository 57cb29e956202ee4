/**
 * A hypervisor that cuts its guest's memory short under the mapping: the kernel ends whoever touches what is gone, so that guest's process may die of it,
 * and no other's; where only sealed memory is taken, nothing happens.
 */
import assert from 'node:assert/strict';
import { ftruncateSync, mkdtempSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { socketChannel } from '../../src/control/bpfhv-proxy/channel.js';
import { PROTOCOL_FEATURE, VhostUserFrontend } from '../../src/control/vhost-user/index.js';
import { EventFd } from '../../src/linux/eventfd.js';
import type { OwnedFd } from '../../src/linux/fd.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { eventually, leakTest } from '../../src/linux/testing.js';
import { connectUnix, type UnixSocket } from '../../src/linux/unix-socket.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { PATIENCE_MS, Program } from '../link/program.js';

const SIZE = 1 << 20;
const USER = 0x7f00_0000_0000n;
/** Where the transmit ring is in the memory, and its only frame. */
const [DESCRIPTORS, AVAILABLE, USED, FRAME] = [0, 0x1000, 0x2000, 0x8000];
const NUM = 16;

/** A backend in a process of its own, and the hypervisor that talks to it. */
class Served {
  readonly program: Program;
  readonly kick = EventFd.create('kick');
  #frontend!: VhostUserFrontend;
  #published = 0;
  readonly #socket: string;

  constructor(folder: string, name: string, ...words: string[]) {
    this.#socket = join(folder, `${name}.sock`);
    const serve = ['serve', '--vhost-user', this.#socket, '--listen', '--port', 'sink', '--control', 'none'];
    this.program = new Program([...serve, '-v', '--child-of', String(process.pid), ...words]);
  }

  async connect(): Promise<void> {
    const socket = await eventually(() => reached(this.#socket), PATIENCE_MS);
    this.#frontend = new VhostUserFrontend(socketChannel(socket));
    await this.#frontend.negotiateProtocol(PROTOCOL_FEATURE.REPLY_ACK | PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS);
    await this.#frontend.tell('SET_OWNER', {});
    await this.#frontend.tell('SET_FEATURES', { value: F.VERSION_1 });
  }

  async share(fd: OwnedFd): Promise<void> {
    const region = { guestPhysicalAddress: 0n, size: BigInt(SIZE), userspaceAddress: USER, mmapOffset: 0n };
    await this.#frontend.addMemRegion({ ...region, fd });
  }

  async start(): Promise<void> {
    const at = (offset: number) => USER + BigInt(offset);
    const areas = { descriptor: at(DESCRIPTORS), available: at(AVAILABLE), used: at(USED) };
    await this.#frontend.tell('SET_VRING_NUM', { index: 1, num: NUM });
    await this.#frontend.tell('SET_VRING_BASE', { index: 1, num: 0 });
    await this.#frontend.tell('SET_VRING_ADDR', { index: 1, flags: 0, ...areas, logGuestAddress: 0n });
    await this.#frontend.setVringFd('SET_VRING_KICK', 1, this.kick.owner);
  }

  /** The guest has a frame sent. */
  publish({ fd }: OwnedFd): void {
    const descriptor = Buffer.alloc(16);
    descriptor.writeBigUInt64LE(BigInt(FRAME));
    descriptor.writeUInt32LE(72, 8);
    writeSync(fd, descriptor, 0, 16, DESCRIPTORS);
    writeSync(fd, Buffer.from(Uint16Array.of(0, ++this.#published).buffer), 0, 4, AVAILABLE);
    this.kick.signal();
  }

  async sent(): Promise<number> {
    return (await this.program.counters()).port.sent;
  }

  async end(): Promise<void> {
    this.#frontend?.close();
    await this.#frontend?.closed;
    this.kick.close();
    if (this.program.alive) await this.program.end();
  }
}

/** Null: nobody listens yet. */
function reached(path: string): UnixSocket | null {
  try {
    return connectUnix(path);
  } catch {
    return null;
  }
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  for (let tries = 0; !(await holds()); tries++) assert.ok(tries < 2000, `never: ${holds}`);
}

leakTest('memory that can be cut short, and is: its own process may die, others go on', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'polynic-cut-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const victim = new Served(folder, 'victim');
  const other = new Served(folder, 'other');
  const strict = new Served(folder, 'strict', '--require-sealed');
  const memory = [false, true, false].map(sealed => createMemfd({ name: 'guest', size: SIZE, sealed }));
  const [cut, sealed, refused] = memory as [OwnedFd, OwnedFd, OwnedFd];
  try {
    for (const [served, fd] of [
      [victim, cut],
      [other, sealed],
    ] as const) {
      await served.connect();
      await served.share(fd);
      await served.start();
      served.publish(fd);
      await until(async () => (await served.sent()) === 1);
    }
    assert.match(victim.program.stderr, /can be shrunk by its owner/);
    await strict.connect();
    await assert.rejects(strict.share(refused), { code: 'VHOST_REFUSED' });
    assert.match(strict.program.stderr, /can be shrunk by its owner/);

    for (const fd of [cut, refused]) ftruncateSync(fd.fd, 0);
    assert.throws(() => ftruncateSync(sealed.fd, 0), { code: 'EPERM' });
    victim.kick.signal();
    const { signal } = await victim.program.ended;
    assert.equal(signal, 'SIGBUS');

    other.publish(sealed);
    await until(async () => (await other.sent()) === 2);
    const good = createMemfd({ name: 'sealed', size: SIZE });
    await strict.share(good);
    await strict.start();
    strict.publish(good);
    await until(async () => (await strict.sent()) === 1);
    good.close();
  } finally {
    for (const served of [victim, other, strict]) await served.end();
    for (const fd of memory) fd.close();
  }
});
