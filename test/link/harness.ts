/**
 * Two machines and a cable, made of two namespaces and two polynic processes:
 *
 * ```
 *   guest namespace                                                       host namespace
 *   gst0 10.9.0.2 ══ TAP ══ polynic guest ── SOCKET, shared memory ── polynic serve ══ TAP ══ hst0 10.9.0.1
 * ```
 * Nothing has a name outside of the test: namespaces are descriptors, sockets lie in a folder of their own. Whoever kills processes
 * may; `start…` brings them back. At the end every process, descriptor, interface and file must be gone, or the test fails.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { countProcessFds, type OwnedFd, openFds } from '../../src/linux/fd.js';
import { changeLink, type LinkInfo, linkInfo } from '../../src/linux/link.js';
import { monitorLink } from '../../src/linux/link-monitor.js';
import { canCreateNamespaces, createNetns } from '../../src/linux/netns.js';
import { addAddress, setNeighbour } from '../../src/linux/route.js';
import { silenceIpv6, writeSysctl } from '../../src/linux/sysctl.js';
import { PATIENCE_MS, Program } from './program.js';
import { type FlowOptions, UdpFlow } from './traffic.js';

/** One end of the cable. */
export interface End {
  readonly netns: OwnedFd;
  /** How another process, or another thread, opens the namespace. */
  readonly path: string;
  readonly interface: string;
  readonly ip: string;
  readonly mac: string;
}

export interface LinkOptions {
  /** Further words for `polynic serve`. */
  readonly serve?: readonly string[];
  readonly guest?: readonly string[];
  /** Who listens on the socket; default: the guest. `test`: there is no guest, the test plays its part. */
  readonly listener?: 'guest' | 'serve' | 'test';
  /** Default: bpfhv-proxy. */
  readonly protocol?: 'bpfhv-proxy' | 'vhost-user';
  /** Makes the ends ready before anything runs. */
  readonly before?: (ends: Pick<Link, 'guestEnd' | 'hostEnd'>) => void;
}

export class Link {
  readonly guestEnd: End;
  readonly hostEnd: End;
  /** For sockets and other files of this test. */
  readonly folder: string;
  readonly socket: string;
  guest!: Program;
  serve!: Program;
  readonly #options: LinkOptions;
  readonly #programs: Program[] = [];
  readonly #flows: UdpFlow[] = [];

  private constructor(options: LinkOptions) {
    this.#options = options;
    this.guestEnd = makeEnd('gst0', '10.9.0.2', '02:00:00:00:00:02');
    this.hostEnd = makeEnd('hst0', '10.9.0.1', '02:00:00:00:00:01');
    this.folder = mkdtempSync(join(tmpdir(), 'polynic-link-'));
    this.socket = join(this.folder, 'nic.sock');
  }

  /** Both processes run, both interfaces are up, the carrier is there. */
  static async open(options: LinkOptions = {}): Promise<Link> {
    const link = new Link(options);
    try {
      options.before?.(link);
      if (options.listener !== 'test') link.spawnGuest();
      link.spawnServe();
      await link.serveReady();
      if (options.listener !== 'test') await link.guestReady();
      return link;
    } catch (error) {
      await link.close();
      throw error;
    }
  }

  spawnGuest(): void {
    const { guestEnd, socket } = this;
    const how = this.#options.listener === 'serve' ? '--connect' : '--listen';
    const netdev = `tap:${guestEnd.interface},netns=${guestEnd.path}`;
    const own = this.#options.guest ?? [];
    this.guest = this.#spawn([
      ...['guest', this.#protocol, socket, how, '--netdev', netdev, '--mac', guestEnd.mac, '-v', ...own],
    ]);
  }

  spawnServe(): void {
    const { hostEnd, socket } = this;
    const how = this.#options.listener === 'serve' ? '--listen' : '--connect';
    const port = `tap:${hostEnd.interface},netns=${hostEnd.path},mac=${hostEnd.mac}`;
    this.serve = this.#spawn([
      ...['serve', this.#protocol, socket, how, '--port', port, '-v', ...(this.#options.serve ?? [])],
    ]);
  }

  /** One more `polynic serve` on the same socket; it waits until the guest has a place for it. */
  spawnAnother(words: readonly string[]): Program {
    return this.#spawn(['serve', this.#protocol, this.socket, '--connect', '-v', ...words]);
  }

  /** The guest's interface exists, is configured and has a carrier. */
  async guestReady(): Promise<void> {
    const { mac, interface: name } = this.guestEnd;
    // A TAP is born with an address of its own, and with a carrier. The driver sets both right once it has seen the NIC.
    await this.#when(this.guestEnd, `${name} to be the NIC`, link => link?.mac === mac);
    setUp(this.guestEnd, this.hostEnd);
    await this.carrier(true);
  }

  async serveReady(): Promise<void> {
    const { mac, interface: name } = this.hostEnd;
    await this.#when(this.hostEnd, `${name} to exist`, link => link?.mac === mac, this.serve);
    setUp(this.hostEnd, this.guestEnd);
  }

  /** Starts a flow that ends with the link, if not before. */
  async flow(from: End, to: End, options: FlowOptions): Promise<UdpFlow> {
    const flow = await UdpFlow.start(from, to, options);
    this.#flows.push(flow);
    return flow;
  }

  /** Waits for the carrier of the guest's interface. */
  async carrier(up: boolean): Promise<void> {
    const what = `gst0 to have ${up ? 'a' : 'no'} carrier`;
    await this.#when(this.guestEnd, what, link => link?.carrier === up);
  }

  /** The guest's interface is set down, or up again. Resolves when the device and the carrier have followed. */
  async setInterface(up: boolean): Promise<void> {
    const { interface: name, netns } = this.guestEnd;
    const after = this.guest.stderr.length;
    // A permanent neighbour does not survive an interface that is set down.
    if (up) introduce(this.guestEnd, this.hostEnd);
    changeLink(name, { up }, netns);
    if (up) return this.carrier(true);
    // The kernel does not tell of the carrier of an interface that is down; the driver does.
    await this.guest.says(/device stopped/, { after });
    assert.equal(linkInfo(name, netns).carrier, false, 'the carrier of an interface that is down');
  }

  /** Ends what runs, in an orderly way, and checks that nothing is left. */
  async close(): Promise<void> {
    await Promise.all(this.#flows.map(flow => flow.abandon()));
    await Promise.all(this.#programs.filter(program => program.alive).map(program => program.end()));
    this.guestEnd.netns.close();
    this.hostEnd.netns.close();
    const files = readdirSync(this.folder);
    rmSync(this.folder, { recursive: true });
    assert.deepEqual(files, [], 'files left behind');
    for (const { ending, left, output } of this.#programs) {
      if (ending?.signal) continue;
      assert.equal(ending?.code, 0, output);
      assert.deepEqual(left, { fds: 0, mappings: 0, buffers: 0 }, output);
    }
    for (const { pid } of this.#programs) assert.ok(!existsSync(`/proc/${pid}`), `process ${pid} is left`);
  }

  get #protocol(): string {
    return `--${this.#options.protocol ?? 'bpfhv-proxy'}`;
  }

  get output(): string {
    return this.#programs.map(program => program.output).join('\n');
  }

  #spawn(words: string[]): Program {
    const program = new Program([...words, '--child-of', String(process.pid)]);
    this.#programs.push(program);
    return program;
  }

  /** Waits for a state of an end's interface, as long as the process lives that has to bring it about. */
  #when(end: End, what: string, is: (link: LinkInfo | null) => boolean, owner = this.guest): Promise<void> {
    return new Promise((resolve, reject) => {
      let settled = false;
      const settle = (problem?: string): void => {
        if (settled) return;
        settled = true;
        clearTimeout(timer);
        // The first call comes before there is a monitor to close.
        queueMicrotask(() => monitor.close());
        if (problem) reject(new Error(`waited for ${what}: ${problem}\n${this.output}`));
        else resolve();
      };
      const timer = setTimeout(settle, PATIENCE_MS, `${PATIENCE_MS} ms were not enough`);
      const monitor = monitorLink(end.interface, end.netns, link => {
        if (is(link)) settle();
      });
      void owner.ended.then(() => settle('the process ended'));
    });
  }
}

/** A namespace for an interface that is still to come; its owner closes it. */
export function makeEnd(name: string, ip: string, mac: string): End {
  const netns = createNetns(`namespace of ${name}`);
  silenceIpv6(netns);
  changeLink('lo', { up: true }, netns);
  return { netns, path: `/proc/${process.pid}/fd/${netns.fd}`, interface: name, ip, mac };
}

/** The ends of a link that is ready, with IPv6 addresses beside those that they have: such links are silent otherwise. */
export function withIpv6({ guestEnd, hostEnd }: Pick<Link, 'guestEnd' | 'hostEnd'>): {
  guestEnd: End;
  hostEnd: End;
} {
  const ends = { guestEnd: { ...guestEnd, ip: 'fd09::2' }, hostEnd: { ...hostEnd, ip: 'fd09::1' } };
  for (const [end, other] of [
    [ends.guestEnd, ends.hostEnd],
    [ends.hostEnd, ends.guestEnd],
  ] as const) {
    writeSysctl(`net/ipv6/conf/${end.interface}/disable_ipv6`, 0, end.netns);
    addAddress(end.interface, `${end.ip}/64`, end.netns);
    introduce(end, other);
  }
  return ends;
}

/** Everything in an order in which nobody on the cable ever has to ask who has which address. */
export function setUp(end: End, other: End): void {
  introduce(end, other);
  addAddress(end.interface, `${end.ip}/24`, end.netns);
  changeLink(end.interface, { up: true }, end.netns);
}

function introduce(end: End, other: End): void {
  setNeighbour(end.interface, other.ip, other.mac, end.netns);
}

/** The kernel's counters of an end's interface. */
export function kernelStats(end: End) {
  return linkInfo(end.interface, end.netns).stats;
}

/** Longer than any test takes on a machine that others use as well; the long ones say so themselves. */
const LIMIT_MS = 300_000;

/** A test on a link of its own; without the rights or the devices it needs it is skipped, and says so. */
export function linkTest(
  name: string,
  options: LinkOptions,
  body: (link: Link, t: TestContext) => Promise<void>,
  timeout = LIMIT_MS,
): void {
  test(name, { timeout }, async t => {
    const why = cannot();
    if (why) return t.skip(why);
    const before = { fds: openFds(), all: countProcessFds() };
    const link = await Link.open(options);
    try {
      await body(link, t);
    } catch (error) {
      t.diagnostic(link.output);
      throw error;
    } finally {
      await link.close();
    }
    assert.deepEqual(openFds(), before.fds, 'descriptors left open');
    assert.ok(countProcessFds() <= before.all, 'descriptors left open behind the table');
    for (const { interface: name } of [link.guestEnd, link.hostEnd]) {
      assert.ok(!ownInterfaces().includes(name), `${name} is in the machine's own namespace`);
    }
  });
}

/** Why these tests can't run here; null: they can. */
export function cannot(): string | null {
  if (!canCreateNamespaces()) return 'needs root: it makes network namespaces and devices';
  if (!existsSync('/dev/net/tun')) return 'needs /dev/net/tun';
  return null;
}

function ownInterfaces(): string[] {
  const lines = readFileSync('/proc/net/dev', 'utf8').split('\n').slice(2);
  return lines.map(line => line.split(':')[0]!.trim()).filter(name => name !== '');
}
