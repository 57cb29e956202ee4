/** The device that a driver sees over bpfhv-proxy, while its backend announces one contract after the other. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { ProxyDevice } from '../../src/control/bpfhv-proxy/device.js';
import { serveBackend, socketChannel } from '../../src/control/bpfhv-proxy/index.js';
import { CTRL, REG, STATUS } from '../../src/guest/bpfhv/registers.js';
import { GuestRam } from '../../src/guest/guest-ram.js';
import { EventFd } from '../../src/linux/eventfd.js';
import { type OwnedFd, openFds } from '../../src/linux/fd.js';
import { memfdOf } from '../../src/linux/memfd.js';
import { socketPair } from '../../src/linux/unix-socket.js';
import type { NicControl } from '../../src/nic/control.js';
import { sring } from '../../src/ring/sring.js';
import { eventually, window } from '../compliance/testbed.js';

/** A backend that tells of contract `n`: so many features and bytes of context. */
class Teller implements NicControl {
  n = 1;
  programsFile: Uint8Array = readFileSync(sring.programs);
  upgrades = 0;
  /** Called when it is asked for sizes. */
  onSizes = (): void => {};
  #programs: OwnedFd | null = null;
  #upgrade: EventFd | null = null;

  features(): bigint {
    return BigInt(this.n);
  }
  setFeatures(): void {}
  setParameters() {
    this.onSizes();
    return { rxContextSize: 4096 + this.n, txContextSize: 4096 + this.n };
  }
  programs(): OwnedFd {
    this.#programs?.close();
    this.#programs = memfdOf('programs', this.programsFile);
    return this.#programs;
  }
  async setMemoryTable(regions: Parameters<NicControl['setMemoryTable']>[0]): Promise<void> {
    for (const { fd } of regions) fd.close();
  }
  async setQueueContext(): Promise<void> {}
  async setQueueKick(_queue: number, fd: OwnedFd | null): Promise<void> {
    fd?.close();
  }
  async setQueueIrq(_queue: number, fd: OwnedFd | null): Promise<void> {
    fd?.close();
  }
  setUpgrade(fd: OwnedFd): void {
    this.upgrades++;
    this.#upgrade?.close();
    this.#upgrade = EventFd.adopt(fd);
  }
  async enable(): Promise<void> {}
  async disable(): Promise<void> {}
  async disconnect(): Promise<void> {
    this.#programs?.close();
    this.#upgrade?.close();
  }

  /** Announces the next contract. */
  announce(): void {
    this.n++;
    this.#upgrade!.signal();
  }
}

/** A device that such a backend has just introduced itself to. */
async function connected(t: TestContext) {
  const before = openFds();
  const ram = new GuestRam(window, 1 << 20);
  const log: string[] = [];
  const device = new ProxyDevice({
    ...{ ram, queuePairs: 1, bufs: 16, mac: new Uint8Array(6) },
    log: (level, message) => log.push(`${level}: ${message}`),
  });
  const teller = new Teller();
  const [ours, theirs] = socketPair('bpfhv-proxy');
  const hangUp = new AbortController();
  const over = Promise.all([
    device.serve(socketChannel(ours)),
    serveBackend(socketChannel(theirs), teller, { signal: hangUp.signal }),
  ]);
  const end = async () => {
    hangUp.abort();
    await over;
  };
  t.after(async () => {
    await end();
    device.close();
    ram.close();
    assert.deepEqual(openFds(), before);
  });
  await eventually(() => device.present);
  await device.write(REG.CTRL, CTRL.UPGRADE_READY);
  return { device, teller, log, end };
}

const upgradePending = async (device: ProxyDevice) =>
  ((await device.read(REG.STATUS)) & STATUS.UPGRADE) !== 0;

test('a second signal while the first is looked into: no mixture of both is shown', async t => {
  const { device, teller } = await connected(t);
  const shown: number[][] = [];
  device.onChange = () => {
    void Promise.all([device.read(REG.FEATURES), device.read(REG.RX_CTX_SIZE)]).then(two => shown.push(two));
  };
  teller.onSizes = () => {
    teller.onSizes = () => {};
    teller.announce();
  };
  teller.announce();
  await eventually(() => shown.length > 0);
  assert.deepEqual(shown, [[3, 4096 + 3]]);
  assert.ok(await upgradePending(device));
});

test('an object that is too long is declined, and the old contract is shown', async t => {
  const { device, teller, log } = await connected(t);
  await device.write(REG.FEATURES, 0);
  teller.programsFile = new Uint8Array(5 << 20);
  teller.announce();
  await eventually(() => teller.upgrades === 2);
  assert.match(log.at(-1)!, /^error: the new contract is refused: an object file of 5242880 bytes/);
  assert.equal(await upgradePending(device), false);
  assert.deepEqual([await device.read(REG.FEATURES), await device.read(REG.RX_CTX_SIZE)], [0, 4097]);
});

test('contexts and features of a contract that is declined are forgotten with it', async t => {
  const { device, teller } = await connected(t);
  await device.write(REG.FEATURES, 1);
  await device.write(REG.QUEUE_SELECT, 0);
  await device.write(REG.CTX_PADDR_LO, 0x1000);
  await device.write(REG.CTX_PADDR_HI, 0);
  await device.write(REG.CTRL, CTRL.RX_ENABLE | CTRL.TX_ENABLE);
  teller.announce();
  await eventually(() => device.previews);
  assert.equal(await device.read(REG.FEATURES), 2);
  await device.write(REG.FEATURES, 0);
  await device.write(REG.CTX_PADDR_HI, 1);
  await device.write(REG.CTRL, CTRL.UPGRADE_READY);
  assert.equal(teller.upgrades, 2);
  assert.equal(await device.read(REG.FEATURES), 1);
  await device.write(REG.CTRL, CTRL.QUEUES_DUMP);
  let dump = '';
  for (let at = 0; at < (await device.read(REG.DUMP_LEN)); at += 4) {
    await device.write(REG.DUMP_OFS, at);
    const word = await device.read(REG.DUMP_INPUT);
    dump += String.fromCharCode(word & 0xff, (word >>> 8) & 0xff, (word >>> 16) & 0xff, word >>> 24);
  }
  assert.match(dump, /0x1000\b/);
  assert.doesNotMatch(dump, /100001000/);
});

test('when the backend has gone, what is shown is something else', async t => {
  const { device, teller, end } = await connected(t);
  teller.announce();
  await eventually(() => device.previews);
  const { generation } = device;
  await end();
  assert.ok(!device.present && !device.previews);
  assert.notEqual(device.generation, generation);
});
