/**
 * Frames that no kernel sends any more, put where a kernel would put them; and sockets that hear what arrives.
 *
 * ```
 *   test ── socket pair ──► TapPort.get …        a lane of a real TAP, whose descriptor is an end of the pair
 *   … TapPort.put ══ TAP ══ kernel ── UDP socket ──► test
 * ```
 */
import * as L from '../../datapath/layout.js';
import { check, EAGAIN } from '../../src/linux/errors.js';
import { OwnedFd } from '../../src/linux/fd.js';
import * as libc from '../../src/linux/libc.js';
import { addAddress } from '../../src/linux/route.js';
import { openUdp, type Socket } from '../../src/linux/socket.js';
import { writeSysctl } from '../../src/linux/sysctl.js';
import type { Port } from '../../src/port/port.js';
import { attachPort, openPort } from '../../src/port/registry.js';
import type { TapHandle } from '../../src/port/tap.js';
import type { DatapathExports } from '../../src/ring/datapath.js';
import { arena, type Testbed, window } from '../compliance/testbed.js';
import type { Ask } from '../unit/segment-model.js';
import { type End, makeEnd, setUp } from './harness.js';

const AF_UNIX = 1;
const SOCK_SEQPACKET_NONBLOCK_CLOEXEC = 5 | 0o4000 | 0o2000000;
const LARGEST = L.VNET_HEADER_SIZE + L.LARGE_FRAME;

/** The virtio-net header of 12 bytes. */
function headerOf(ask: Ask): Uint8Array {
  const view = new DataView(new ArrayBuffer(L.VNET_HEADER_SIZE));
  view.setUint8(L.VNET_FLAGS, ask.flags);
  view.setUint8(L.VNET_GSO_TYPE, ask.type);
  view.setUint16(L.VNET_HDR_LEN, ask.hdrLen, true);
  view.setUint16(L.VNET_GSO_SIZE, ask.gsoSize, true);
  view.setUint16(L.VNET_CSUM_START, ask.start, true);
  view.setUint16(L.VNET_CSUM_OFFSET, ask.offset, true);
  return new Uint8Array(view.buffer);
}

/** A TAP with an end of its own, which has an IPv4 and an IPv6 address. */
export class Tapped {
  readonly end: End;
  readonly ip6: string;
  readonly handle: TapHandle & { setOffloads(offloads: number): void };
  readonly port: Port;
  /** The same lane, but what comes in on it is what the test injects. */
  readonly injected: Port;
  readonly #pair: readonly [OwnedFd, OwnedFd];
  readonly #bytes = new Uint8Array(LARGEST);

  constructor(calls: DatapathExports, name: string, n: number) {
    this.end = makeEnd(name, `10.9.1.${n}`, `02:00:00:00:01:0${n}`);
    this.ip6 = `fd00:9::${n}`;
    const { path, mac, netns } = this.end;
    const port = openPort(`tap:${name},netns=${path},mac=${mac}`, { window, arena });
    this.handle = port as Tapped['handle'];
    const fds = new Int32Array(2);
    check(libc.socketpair(AF_UNIX, SOCK_SEQPACKET_NONBLOCK_CLOEXEC, 0, fds), 'socketpair', name);
    this.#pair = [new OwnedFd(fds[0]!, 'what is injected'), new OwnedFd(fds[1]!, 'who injects')];
    const [lane] = this.handle.lanes;
    this.port = attachPort(lane!, { window, calls });
    this.injected = attachPort({ ...lane!, fds: [fds[0]!] }, { window, calls });
    for (const which of ['all', 'default', name]) {
      writeSysctl(`net/ipv6/conf/${which}/disable_ipv6`, 0, netns);
    }
  }

  /** Addresses, and the way to the other one. */
  join(other: Tapped): void {
    setUp(this.end, other.end);
    addAddress(this.end.interface, `${this.ip6}/64`, this.end.netns);
  }

  inject(frame: Uint8Array, ask: Ask): void {
    const header = headerOf(ask);
    this.#bytes.set(header);
    this.#bytes.set(frame, header.length);
    const [, { fd }] = this.#pair;
    check(libc.write(fd, this.#bytes, header.length + frame.length), 'write', 'what is injected');
  }

  /** A socket that hears what arrives at this end's `port`. */
  listen(v6: boolean, port: number): Ear {
    const ip = v6 ? this.ip6 : this.end.ip;
    const socket = openUdp(ip, { netns: this.end.netns, nonblocking: true });
    return new Ear(socket.setBuffers({ receive: 8e6 }).bind({ ip, port }));
  }

  close(): void {
    for (const fd of this.#pair) fd.close();
    this.handle.close();
    this.end.netns.close();
  }
}

/** Hears datagrams. */
export class Ear {
  readonly #socket: Socket;
  readonly #bytes = new Uint8Array(LARGEST);

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  /** What has arrived. */
  heard(): Buffer[] {
    const datagrams: Buffer[] = [];
    for (;;) {
      const length = this.#socket.recv(this.#bytes, this.#bytes.length);
      if (length === -EAGAIN) return datagrams;
      datagrams.push(Buffer.from(this.#bytes.slice(0, check(length, 'recv', this.#socket.name))));
    }
  }

  close(): void {
    this.#socket.close();
  }
}

/** What went through the ring: frames, and those of them that asked for something. */
export interface Passed {
  frames: number;
  asking: number;
}

/** Moves all that `from` has through the transmit ring to `to`. */
export function transmit(bed: Testbed, from: Port, to: Port): Passed {
  const { calls } = bed.datapath;
  const { driver, queue } = bed.tx;
  return untilEmpty(passed => {
    calls.driver_tx_complete(driver, L.MAX_BATCH);
    calls.driver_tx_room(driver, bed.guestBatch.address, L.MAX_BATCH);
    const filled = from.get(bed.guestBatch);
    calls.driver_tx_publish(driver, bed.guestBatch.address, filled);
    bed.ring.pop(queue.address, bed.deviceBatch.address, L.MAX_BATCH);
    tally(passed, bed, 'deviceBatch');
    bed.ring.complete(queue.address, bed.deviceBatch.address, to.put(bed.deviceBatch));
    return filled;
  });
}

/** Moves all that `from` has through the receive ring to `to`. */
export function receive(bed: Testbed, from: Port, to: Port): Passed {
  const { calls } = bed.datapath;
  const { driver, queue } = bed.rx;
  return untilEmpty(passed => {
    calls.driver_rx_refill(driver);
    bed.ring.room(queue.address, bed.deviceBatch.address, L.MAX_BATCH);
    const filled = from.get(bed.deviceBatch);
    bed.ring.push(queue.address, bed.deviceBatch.address, filled);
    while (calls.driver_rx_poll(driver, bed.guestBatch.address, L.MAX_BATCH) > 0) {
      tally(passed, bed, 'guestBatch');
      to.put(bed.guestBatch);
      calls.driver_rx_release(driver, bed.guestBatch.address);
    }
    return filled;
  });
}

function untilEmpty(turn: (passed: Passed) => number): Passed {
  const passed = { frames: 0, asking: 0 };
  while (turn(passed) > 0);
  return passed;
}

function tally(passed: Passed, bed: Testbed, which: 'guestBatch' | 'deviceBatch'): void {
  const batch = bed[which];
  passed.frames += batch.count;
  for (let i = 0; i < batch.count; i++) if (batch.asks(i)) passed.asking++;
}
