/**
 * Many flows of datagrams at once, both ways, from one thread: each is a pair of sockets of its own, so a flow of its own for the kernel.
 *
 * Nothing more is sent before all of a round has come: only the cable itself could lose one.
 */
import assert from 'node:assert/strict';
import { setImmediate } from 'node:timers/promises';
import { EAGAIN } from '../../src/linux/errors.js';
import { openUdp, type Socket } from '../../src/linux/socket.js';
import type { End } from './harness.js';

/** Datagrams of a flow and round. */
const BURST = 4;
const PATIENCE_MS = 30_000;

/** One direction of a flow: numbered datagrams. */
class Stream {
  readonly #from: Socket;
  readonly #to: Socket;
  #sent = 0;
  #received = 0;

  constructor(from: Socket, to: Socket) {
    this.#from = from;
    this.#to = to;
  }

  send(datagram: Uint32Array): void {
    for (let i = 0; i < BURST; i++) {
      datagram[0] = this.#sent++;
      assert.equal(this.#from.send(datagram, datagram.byteLength), datagram.byteLength);
    }
  }

  /** Takes what has come; every number must be the next one. Returns how many are still under way. */
  receive(datagram: Uint32Array, name: string): number {
    while (this.#received < this.#sent) {
      const got = this.#to.recv(datagram, datagram.byteLength);
      if (got === -EAGAIN) break;
      assert.equal(got, datagram.byteLength, name);
      assert.equal(datagram[0], this.#received++, `${name}: out of order`);
    }
    return this.#sent - this.#received;
  }
}

export class ManyFlows {
  readonly #sockets: Socket[] = [];
  readonly #streams: (readonly [name: string, stream: Stream])[] = [];
  readonly #datagram = new Uint32Array(32);

  /** `count` flows between two ends, on as many ports from `port` on. */
  constructor(a: End, b: End, count: number, port: number) {
    for (let i = 0; i < count; i++) {
      const [one, other] = [this.#open(a, b, port + i), this.#open(b, a, port + i)];
      this.#streams.push([`flow ${i} to ${b.ip}`, new Stream(one, other)]);
      this.#streams.push([`flow ${i} to ${a.ip}`, new Stream(other, one)]);
    }
  }

  /** So many rounds, in which every flow sends a burst each way and gets all of it. Returns the datagrams of one flow and direction. */
  async exchange(rounds: number): Promise<number> {
    for (let round = 0; round < rounds; round++) {
      for (const [, stream] of this.#streams) stream.send(this.#datagram);
      await this.#arrival();
    }
    return rounds * BURST;
  }

  close(): void {
    for (const socket of this.#sockets) socket.close();
  }

  async #arrival(): Promise<void> {
    const end = performance.now() + PATIENCE_MS;
    let missing = this.#streams;
    for (;;) {
      missing = missing.filter(([name, stream]) => stream.receive(this.#datagram, name) > 0);
      if (missing.length === 0) return;
      const names = missing.map(([name]) => name).slice(0, 5);
      assert.ok(
        performance.now() < end,
        `lost datagrams of ${missing.length} streams: ${names.join(', ')} …`,
      );
      await setImmediate();
    }
  }

  #open(own: End, other: End, port: number): Socket {
    const socket = openUdp(own.ip, { netns: own.netns, nonblocking: true });
    this.#sockets.push(socket);
    return socket.bind({ ip: own.ip, port }).connect({ ip: other.ip, port });
  }
}
