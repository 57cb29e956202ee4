/**
 * A port that a test holds the other end of: the moving half of a TAP, on an end of a socket pair instead of an interface.
 *
 * ```
 *   test ── send ──► socket pair ──► TapPort.get …
 *        ◄── next ──────────────── … TapPort.put
 * ```
 */
import * as L from '../../datapath/layout.js';
import { check } from '../../src/linux/errors.js';
import { OwnedFd } from '../../src/linux/fd.js';
import * as libc from '../../src/linux/libc.js';
import { watchReadable } from '../../src/linux/watch.js';
import { readCounters } from '../../src/port/counters.js';
import type { PortHandle } from '../../src/port/port.js';
import { INLET_BYTES, OUTLET_BYTES, prepareInlet, prepareOutlet } from '../../src/port/soften.js';
import { arena, window } from '../compliance/testbed.js';
import type { Ask } from './segment-model.js';

const AF_UNIX = 1;
const SOCK_SEQPACKET_NONBLOCK_CLOEXEC = 5 | 0o4000 | 0o2000000;
const FRAME = 60;
/** Behind the frame's addresses and type. */
const NUMBER = L.VNET_HEADER_SIZE + 14;

export class Wire {
  readonly port: PortHandle;
  readonly #end: OwnedFd;

  constructor(name: string) {
    const fds = new Int32Array(2);
    check(libc.socketpair(AF_UNIX, SOCK_SEQPACKET_NONBLOCK_CLOEXEC, 0, fds), 'socketpair', name);
    const ends = [new OwnedFd(fds[0]!, `${name}: the test's`), new OwnedFd(fds[1]!, `${name}: the port's`)];
    this.#end = ends[0]!;
    const state = arena.allocate(L.PORT_SIZE + INLET_BYTES + OUTLET_BYTES);
    prepareInlet(window, state + L.PORT_SIZE);
    prepareOutlet(window, state + L.PORT_SIZE + INLET_BYTES);
    const lanes = [{ kind: 'tap', name, state, fds: [fds[1]!], options: {} }];
    this.port = {
      lanes,
      counters: () => readCounters(window, lanes),
      setOffloads(offloads) {
        window.words[(state + L.PORT_OFFLOADS) >>> 2] = offloads;
      },
      close() {
        arena.free(state);
        for (const end of ends) end.close();
      },
    };
  }

  /** A frame with that number in it. */
  send(number: number): void {
    const frame = new Uint8Array(L.VNET_HEADER_SIZE + FRAME);
    new DataView(frame.buffer).setUint32(NUMBER, number);
    check(libc.write(this.#end.fd, frame, frame.length), 'write', this.#end.name);
  }

  /** Any frame, with what its header asks for. */
  sendAsking(frame: Uint8Array, { flags, type, hdrLen, gsoSize, start, offset }: Ask): void {
    const bytes = Buffer.alloc(L.VNET_HEADER_SIZE + frame.length);
    bytes.set([flags, type]);
    for (const [i, word] of [hdrLen, gsoSize, start, offset].entries()) bytes.writeUInt16LE(word, 2 + 2 * i);
    bytes.set(frame, L.VNET_HEADER_SIZE);
    check(libc.write(this.#end.fd, bytes, bytes.length), 'write', this.#end.name);
  }

  /** The number of the next frame that comes. */
  async next(): Promise<number> {
    const { frame } = await this.receive();
    return frame.readUInt32BE(NUMBER - L.VNET_HEADER_SIZE);
  }

  /** The next frame that comes, and what its header asks for. */
  async receive(): Promise<{ frame: Buffer; ask: Ask }> {
    let arrived = (): void => {};
    const coming = new Promise<void>(resolve => {
      arrived = resolve;
    });
    const watch = watchReadable(this.#end.fd, () => arrived());
    await coming;
    watch.close();
    const bytes = Buffer.alloc(L.VNET_HEADER_SIZE + L.LARGE_FRAME);
    const length = check(libc.read(this.#end.fd, bytes, bytes.length), 'read', this.#end.name);
    const [hdrLen, gsoSize, start, offset] = [2, 4, 6, 8].map(at => bytes.readUInt16LE(at)) as [
      number,
      number,
      number,
      number,
    ];
    const ask = { flags: bytes[0]!, type: bytes[1]!, hdrLen, gsoSize, start, offset };
    return { frame: bytes.subarray(L.VNET_HEADER_SIZE, length), ask };
  }
}
