/**
 * Two TCP connections of a guest that are never idle, one each way, until they are told to end; then every byte is checked.
 *
 * ```
 *   host   noise, noise, … ──►  nc ──► md5sum        guest
 *          md5     ◄──────────  nc ◄── tee ◄── noise, noise, …
 *                                      └──► md5sum
 * ```
 * What moves, pauses or restarts meanwhile must not be seen in them.
 */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { createServer, type Socket } from 'node:net';
import { listenTcp } from '../../../src/linux/socket.js';
import { type Cable, HOST_IP } from '../../../src/vm/cable.js';
import type { Vm } from '../../../src/vm/vm.js';

const PIECE = 64 << 10;

export class Streams {
  readonly #guest: Promise<string>;
  readonly #close: () => void;
  readonly #sent = createHash('md5');
  readonly #got = createHash('md5');
  readonly #noise = randomBytes(1 << 20);
  readonly #listeners = new Set<() => void>();
  #sentBytes = 0;
  #gotBytes = 0;
  #over = false;

  /** Begins both; they may take `limitMs` in all. */
  constructor(vm: Vm, { netns }: Pick<Cable, 'netns'>, limitMs: number) {
    const servers = [this.#send, this.#take].map(connected => {
      const listening = listenTcp({ ip: HOST_IP, port: 0 }, { netns, nonblocking: true });
      const { port } = listening.localEndpoint();
      const server = createServer(socket => {
        socket.on('error', () => {}); // what came through is what is judged
        connected(socket);
      });
      server.listen({ fd: listening.owner.release() });
      return { port, server };
    });
    this.#close = () => {
      for (const { server } of servers) server.close();
    };
    const [down, up] = servers.map(({ port }) => port);
    this.#guest = vm.run(
      `cd /tmp; mkfifo never up; rm -f enough
      dd if=/dev/urandom of=noise bs=64k count=16 2>/dev/null
      nc ${HOST_IP} ${down} <>never | md5sum >down.sum & down=$!
      md5sum <up >up.sum & sum=$!
      while [ ! -e enough ]; do cat noise; done | tee up | nc ${HOST_IP} ${up}
      wait $down $sum
      cat down.sum up.sum; rm never up enough noise`,
      limitMs,
    );
    this.#guest.catch(() => {}); // whoever waits hears of it
  }

  /** Bytes to the guest and to the host, so far. */
  get bytes(): readonly [toGuest: number, toHost: number] {
    return [this.#sentBytes, this.#gotBytes];
  }

  /** Resolves when so many bytes more have gone each way; rejects when the guest's side fails. */
  async more(bytes: number): Promise<void> {
    const targets = this.bytes.map(now => now + bytes);
    let look = (): void => {};
    const reached = new Promise<void>(resolve => {
      look = () => this.bytes.every((now, way) => now >= targets[way]!) && resolve();
      this.#listeners.add(look);
    });
    await Promise.race([reached, this.#guest]).finally(() => this.#listeners.delete(look));
  }

  /** Ends both, on the machine where the guest is now. Each byte must have come through. */
  async stop(vm: Vm): Promise<void> {
    this.#over = true;
    await vm.run('touch /tmp/enough');
    const sums = (await this.#guest).split('\n').map(line => line.split(' ')[0]);
    this.#close();
    assert.deepEqual(
      sums,
      [this.#sent.digest('hex'), this.#got.digest('hex'), ''],
      'streams to the guest and to the host',
    );
  }

  /** After a failure. */
  abandon(): void {
    this.#over = true;
    this.#close();
  }

  readonly #send = (socket: Socket): void => {
    const next = (): void => {
      while (!this.#over) {
        const at = this.#sentBytes % (this.#noise.length - PIECE + 1);
        const piece = this.#noise.subarray(at, at + PIECE);
        this.#sent.update(piece);
        this.#sentBytes += PIECE;
        this.#tell();
        if (!socket.write(piece)) return;
      }
      socket.end();
    };
    socket.on('drain', next);
    next();
  };

  readonly #take = (socket: Socket): void => {
    socket.on('data', part => {
      this.#got.update(part);
      this.#gotBytes += part.length;
      this.#tell();
    });
  };

  #tell(): void {
    for (const listener of [...this.#listeners]) listener();
  }
}
