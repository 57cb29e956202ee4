/**
 * The host's end of a guest's cable: a namespace of its own, and the traffic through it.
 *
 * ```
 *   guest                                          namespace on the host
 *   eth0 10.9.0.2  ──  the NIC         ── TAP ──  hst0 10.9.0.1   servers in this process
 * ```
 * The guest needs no more than busybox: it fetches noise, says what it got, and sends it back.
 */
import { createHash, randomBytes } from 'node:crypto';
import { createServer, type Server, type Socket } from 'node:net';
import type { OwnedFd } from '../linux/fd.js';
import { changeLink } from '../linux/link.js';
import { type LinkMonitor, monitorLink } from '../linux/link-monitor.js';
import { createNetns } from '../linux/netns.js';
import { addAddress, setNeighbour } from '../linux/route.js';
import { listenTcp } from '../linux/socket.js';
import { silenceIpv6 } from '../linux/sysctl.js';
import { openTap, type Tap } from '../linux/tun.js';
import { VmError } from './errors.js';
import type { Vm } from './vm.js';

export const HOST_IP = '10.9.0.1';
export const GUEST_IP = '10.9.0.2';
const INTERFACE = 'hst0';
/** The same for all cables: a guest that moves from one to another finds what it left. */
const HOST_MAC = '02:00:00:00:00:01';

/** Megabytes a second, by direction. */
export interface Rates {
  readonly toGuest: number;
  readonly toHost: number;
}

export class Cable {
  readonly netns: OwnedFd;
  /** Of the host's interface. */
  readonly interface: string;
  readonly mac: string;
  readonly #taps: Tap[] = [];

  /** The namespace is the cable's own from now on. */
  constructor(netns = makeHost('the host end of a cable'), name = INTERFACE, mac = HOST_MAC) {
    this.netns = netns;
    this.interface = name;
    this.mac = mac;
  }

  /** What `--port` takes: a TAP in this namespace. */
  get port(): string {
    return `tap:${this.interface},netns=/proc/${process.pid}/fd/${this.netns.fd},mac=${this.mac}`;
  }

  /** Opens a TAP with so many queues, for QEMU to inherit. */
  openTap(queues = 1): number[] {
    for (let n = 0; n < queues; n++) {
      this.#taps.push(openTap({ name: this.interface, netns: this.netns, multiQueue: queues > 1 }));
    }
    this.connect();
    return this.#taps.map(tap => tap.fd);
  }

  /** Waits until a program has made the TAP that `port` names, as it is to be, and connects it. */
  async appear(
    program: { readonly ended: Promise<unknown>; readonly output: string },
    mtu?: number,
  ): Promise<void> {
    let monitor: LinkMonitor | undefined;
    await new Promise<void>((resolve, reject) => {
      monitor = monitorLink(this.interface, this.netns, link => {
        if (link?.mac === this.mac) resolve(); // it is made first, and gets its address then
      });
      void program.ended.then(() =>
        reject(new VmError('VM_TRAFFIC', `no ${this.interface}: its program ended\n${program.output}`)),
      );
    }).finally(() => monitor?.close());
    if (mtu !== undefined) changeLink(this.interface, { mtu }, this.netns);
    this.connect();
  }

  /** Gives the interface its address and sets it up. */
  connect(): void {
    addAddress(this.interface, `${HOST_IP}/24`, this.netns);
    changeLink(this.interface, { up: true }, this.netns);
  }

  /** Tells the host's kernel the guest's address, so that nothing waits until it has asked; once for each TAP. */
  introduce(mac: string): void {
    setNeighbour(this.interface, GUEST_IP, mac, this.netns);
  }

  close(): void {
    for (const tap of this.#taps) tap.owner.close();
    this.netns.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Has the guest ask and be asked: `count` echoes, all of which must come back. */
  async ping(vm: Vm, count = 5): Promise<string> {
    const said = await vm.run(`ping -c ${count} -i 0.2 -W 20 ${HOST_IP}`);
    const all = new RegExp(`${count} packets transmitted, ${count} packets received`);
    if (!all.test(said)) throw new VmError('VM_TRAFFIC', said);
    return /round-trip.*/.exec(said)?.[0] ?? '';
  }

  /** Moves noise to the guest, in so many connections at once, and back; each byte must come through both ways. */
  async tcp(vm: Vm, bytes: number, streams = 1): Promise<Rates> {
    const noise = Array.from({ length: streams }, () => randomBytes(Math.floor(bytes / streams)));
    const toGuest = await timed(bytes, () => this.#fetch(vm, noise));
    const toHost = await timed(bytes, () => this.#sendBack(vm, noise));
    return { toGuest, toHost };
  }

  async #fetch(vm: Vm, noise: readonly Buffer[]): Promise<void> {
    await Promise.all(
      noise.map(async (bytes, n) => {
        const server = await this.#serve(socket => socket.end(bytes));
        // nc ends with the connection; its input, a pipe that we hold open ourselves, never does.
        const script = `mkfifo /tmp/never${n}; nc ${HOST_IP} ${server.port} <>/tmp/never${n} >/tmp/noise${n}; rm /tmp/never${n}; md5sum </tmp/noise${n}`;
        const said = await vm.run(script, TRANSFER_MS).finally(server.close);
        expect('what the guest got', said.split(' ')[0], md5(bytes));
      }),
    );
  }

  async #sendBack(vm: Vm, noise: readonly Buffer[]): Promise<void> {
    await Promise.all(
      noise.map(async (bytes, n) => {
        const got = createHash('md5');
        let length = 0;
        const server = await this.#serve(socket => {
          socket.on('data', part => {
            got.update(part);
            length += part.length;
            if (length >= bytes.length) socket.end();
          });
        });
        await vm
          .run(`nc ${HOST_IP} ${server.port} </tmp/noise${n}; rm /tmp/noise${n}`, TRANSFER_MS)
          .finally(server.close);
        expect('bytes from the guest', length, bytes.length);
        expect('what the host got', got.digest('hex'), md5(bytes));
      }),
    );
  }

  /** A server in the namespace, on a port of its own. */
  async #serve(connected: (socket: Socket) => void): Promise<{ port: number; close: () => Promise<void> }> {
    const listening = listenTcp({ ip: HOST_IP, port: 0 }, { netns: this.netns, nonblocking: true });
    const { port } = listening.localEndpoint();
    const sockets = new Set<Socket>();
    const server: Server = createServer(socket => {
      sockets.add(socket);
      socket.on('error', () => {}); // what came through is what is judged
      connected(socket);
    });
    await new Promise<void>(resolve => server.listen({ fd: listening.owner.release() }, resolve));
    const close = () =>
      new Promise<void>(resolve => {
        for (const socket of sockets) socket.destroy();
        server.close(() => resolve());
      });
    return { port, close };
  }
}

const TRANSFER_MS = 300_000;

function md5(bytes: Buffer): string {
  return createHash('md5').update(bytes).digest('hex');
}

function expect<T>(what: string, is: T, due: T): void {
  if (is !== due) throw new VmError('VM_TRAFFIC', `${what}: ${is}, and not ${due}`);
}

async function timed(bytes: number, action: () => Promise<void>): Promise<number> {
  const begun = performance.now();
  await action();
  return bytes / 1000 / (performance.now() - begun);
}

/** Gives a guest's interface its address and sets it up. */
export async function configure(vm: Vm, name = 'eth0', ip = GUEST_IP): Promise<void> {
  await vm.run(`ip link set ${name} up && ip addr add ${ip}/24 dev ${name}`);
}

export function shown({ toGuest, toHost }: Rates): string {
  return `to the guest ${toGuest.toFixed(1)} MB/s, to the host ${toHost.toFixed(1)} MB/s`;
}

/** A namespace for the host's end of cables. */
export function makeHost(name: string): OwnedFd {
  const netns = createNetns(name);
  silenceIpv6(netns);
  changeLink('lo', { up: true }, netns);
  return netns;
}
