/**
 * A machine with one virtio NIC, made of our own front end and driver; its rings survive backends.
 *
 * ```
 *   VirtqDriver ── rings in a memfd ──► backend         VhostUserFrontend ── socket ──► backend
 * ```
 */
import assert from 'node:assert/strict';
import * as L from '../../datapath/layout.js';
import { socketChannel } from '../../src/control/bpfhv-proxy/channel.js';
import {
  PROTOCOL_FEATURE,
  PROTOCOL_FEATURES,
  VhostUserFrontend,
} from '../../src/control/vhost-user/index.js';
import { GuestRam } from '../../src/guest/guest-ram.js';
import { EventFd } from '../../src/linux/eventfd.js';
import { eventually } from '../../src/linux/testing.js';
import type { UnixSocket } from '../../src/linux/unix-socket.js';
import { readFlow } from '../../src/port/flow.js';
import { Batch } from '../../src/ring/batch.js';
import { loadDatapath } from '../../src/ring/datapath.js';
import { VirtqDriver } from '../../src/ring/virtio/driver.js';
import { arena, window } from '../compliance/testbed.js';

const NUM = 128;
const USER = 0x5000_0000_0000n;
const { calls } = loadDatapath(window);

export class Machine {
  readonly accept: bigint;
  readonly ram = new GuestRam(window, 4 << 20);
  readonly drivers: readonly VirtqDriver[];
  readonly kicks = [0, 1].map(i => EventFd.create(`kick ${i}`));
  readonly calls = [0, 1].map(i => EventFd.create(`call ${i}`));
  readonly #flows = [arena.allocate(L.PORT_SIZE), arena.allocate(L.PORT_SIZE)] as const;
  readonly #batch = Batch.allocate(window, arena);
  frontend: VhostUserFrontend | null = null;

  /** `accept`: virtio feature bits that the driver takes. */
  constructor(accept: bigint) {
    this.accept = accept;
    this.drivers = (['rx', 'tx'] as const).map(
      direction =>
        new VirtqDriver({ window, arena, calls }, this.ram, { direction, features: accept, num: NUM }),
    );
  }

  /** The conversation that starts the rings; they begin anew. */
  async start(socket: UnixSocket): Promise<void> {
    const frontend = new VhostUserFrontend(socketChannel(socket));
    this.frontend = frontend;
    const { ram } = this;
    const offered = await frontend.getFeatures();
    assert.equal(offered & this.accept, this.accept);
    await frontend.negotiateProtocol(
      PROTOCOL_FEATURE.REPLY_ACK | PROTOCOL_FEATURE.MQ | PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS,
    );
    assert.ok((await frontend.ask('GET_QUEUE_NUM', {})).value >= 1n);
    await frontend.tell('SET_OWNER', {});
    await frontend.tell('SET_FEATURES', { value: this.accept | PROTOCOL_FEATURES });
    const region = {
      guestPhysicalAddress: ram.guestPhysicalAddress,
      size: BigInt(ram.size),
      userspaceAddress: USER,
      mmapOffset: 0n,
      fd: ram.fd,
    };
    if ((frontend.protocol & PROTOCOL_FEATURE.CONFIGURE_MEM_SLOTS) !== 0n)
      await frontend.addMemRegion(region);
    else await frontend.setMemTable([region]);
    const user = (gpa: bigint) => gpa - ram.guestPhysicalAddress + USER;
    for (const [index, driver] of this.drivers.entries()) {
      driver.reset();
      const { descriptor, driver: available, device } = driver.areas;
      await frontend.tell('SET_VRING_NUM', { index, num: NUM });
      await frontend.tell('SET_VRING_BASE', { index, num: driver.base });
      await frontend.tell('SET_VRING_ADDR', {
        ...{ index, flags: 0, logGuestAddress: 0n },
        ...{ descriptor: user(descriptor), available: user(available), used: user(device) },
      });
      await frontend.setVringFd('SET_VRING_KICK', index, this.kicks[index]!.owner);
      await frontend.setVringFd('SET_VRING_CALL', index, this.calls[index]!.owner);
      await frontend.tell('SET_VRING_ENABLE', { index, num: 1 });
    }
    // Before anything comes: some backends have nowhere to keep it.
    if (calls.vdrv_rx_refill(this.drivers[0]!.address) > 0) this.kicks[0]!.signal();
  }

  /** So many frames go out, and have come back as buffers. */
  async send(frames: number): Promise<void> {
    const { address } = this.drivers[1]!;
    for (let sent = 0; sent < frames; ) {
      sent += await eventually(() => {
        assert.ok(calls.vdrv_tx_complete(address, 256) >= 0);
        calls.vdrv_tx_room(address, this.#batch.address, Math.min(64, frames - sent));
        const n = calls.source_fill(this.#flows[1], this.#batch.address, this.#batch.count, 60);
        if (calls.vdrv_tx_publish(address, this.#batch.address, n) > 0) this.kicks[1]!.signal();
        return n;
      });
    }
    await eventually(() => {
      assert.ok(calls.vdrv_tx_complete(address, 256) >= 0);
      return window.words[(address + L.DRIVER_POSTED) >>> 2] === 0;
    });
  }

  /** At least so many frames come in, in order. */
  async receive(frames: number): Promise<void> {
    const { address } = this.drivers[0]!;
    for (let got = 0; got < frames; ) {
      got += await eventually(() => {
        if (calls.vdrv_rx_refill(address) > 0) this.kicks[0]!.signal();
        const n = calls.vdrv_rx_poll(address, this.#batch.address, 64);
        calls.sink_drain(this.#flows[0], this.#batch.address);
        calls.vdrv_rx_release(address, this.#batch.address);
        return n;
      });
    }
  }

  get received() {
    return readFlow(window, this.#flows[0]);
  }

  close(): void {
    this.frontend?.close();
    for (const driver of this.drivers) driver.close();
    for (const fd of [...this.kicks, ...this.calls]) fd.close();
    for (const piece of [...this.#flows, this.#batch.address]) arena.free(piece);
    this.ram.close();
  }
}
