/**
 * Two guests with a provider between them:
 *
 * ```
 *   namespace A                                        namespace of the provider                                        namespace B
 *   gst0 10.9.0.1 ══ polynic guest ── polynic serve ══ mid0 ── bridge ── mid1 ══ polynic serve ── polynic guest ══ gst1 10.9.0.2
 *                    has a key                                                                    has a key
 * ```
 * Nobody is told of anybody: addresses are asked for by ARP. The bridge needs `ip`.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { DriverQueueStats } from '../../src/guest/bpfhv/driver.js';
import { countProcessFds, type OwnedFd, openFds } from '../../src/linux/fd.js';
import { changeLink, linkInfo } from '../../src/linux/link.js';
import { createNetns, inNetns } from '../../src/linux/netns.js';
import { addAddress } from '../../src/linux/route.js';
import { silenceIpv6 } from '../../src/linux/sysctl.js';
import { eventually } from '../../src/linux/testing.js';
import { cannot, type End, makeEnd } from './harness.js';
import { PATIENCE_MS, Program } from './program.js';

export const KEY = Buffer.alloc(32, 0x5a);
const ENDS = [
  ['gst0', '10.9.0.1', '02:00:00:00:00:0a'],
  ['gst1', '10.9.0.2', '02:00:00:00:00:0b'],
] as const;

export interface SideOptions {
  /** Default: sring+seal. */
  readonly device?: string;
  /** Default: KEY; null: none. */
  readonly key?: Buffer | null;
}

/** A guest and its backend. */
export class Side {
  readonly end: End;
  /** The backend's TAP, in the provider's namespace. */
  readonly port: string;
  /** What the backend has captured: both directions, as the provider sees them. */
  readonly capture: string;
  guest!: Program;
  serve!: Program;
  device: string;
  readonly #pair: SealedPair;
  readonly #socket: string;
  readonly #key: string | null;

  constructor(pair: SealedPair, i: 0 | 1, { device = 'sring+seal', key = KEY }: SideOptions) {
    this.#pair = pair;
    this.device = device;
    const [name, ip, mac] = ENDS[i];
    this.end = makeEnd(name, ip, mac);
    this.port = `mid${i}`;
    this.capture = join(pair.folder, `${this.port}.pcapng`);
    this.#socket = join(pair.folder, `${this.port}.sock`);
    this.#key = key && join(pair.folder, `${this.port}.key`);
    if (key) writeFileSync(this.#key!, key, { mode: 0o600 });
  }

  spawnGuest(): void {
    const { path, interface: name, mac } = this.end;
    const netdev = `tap:${name},netns=${path}`;
    const key = this.#key ? ['--key-file', this.#key] : [];
    const words = ['guest', '--bpfhv-proxy', this.#socket, '--netdev', netdev, '--mac', mac, '-v', ...key];
    this.guest = this.#pair.spawn(words);
  }

  spawnServe(): void {
    const port = `tap:${this.port},netns=${this.#pair.path}`;
    const how = ['--device', this.device, '--pcap', this.capture];
    this.serve = this.#pair.spawn(['serve', '--bpfhv-proxy', this.#socket, '--port', port, '-v', ...how]);
  }

  /** Has the running backend change to another device type. Returns the code of what went wrong; null: nothing. */
  async upgrade(device: string): Promise<string | null> {
    const { error } = (await this.serve.request({ op: 'upgrade', device })) as { error?: { code: string } };
    return error?.code ?? null;
  }

  /** The guest's TAP is up and has an address. */
  async setUp(): Promise<void> {
    const { interface: name, netns, ip } = this.end;
    await when(`${name} to exist`, this.guest, () => exists(name, netns));
    addAddress(name, `${ip}/24`, netns);
    changeLink(name, { up: true }, netns);
  }

  /** The backend's TAP is a port of the bridge. */
  async plug(): Promise<void> {
    await when(`${this.port} to exist`, this.serve, () => exists(this.port, this.#pair.netns));
    this.#pair.ip('link', 'set', this.port, 'master', 'bridge', 'up');
  }

  async carrier(): Promise<void> {
    const { interface: name, netns } = this.end;
    await when(`${name} to have a carrier`, this.guest, () => linkInfo(name, netns).carrier);
  }

  get mtu(): number {
    return linkInfo(this.end.interface, this.end.netns).mtu;
  }

  async queue(direction: 'rx' | 'tx'): Promise<DriverQueueStats> {
    const { queues } = await this.guest.counters();
    return queues.find(queue => queue.direction === direction) as DriverQueueStats;
  }

  /** Where the bytes stand in the guest memory that the device has, now; -1: nowhere. */
  searchMemory(marker: Buffer): number {
    return searchMemory(this.guest, marker);
  }
}

export class SealedPair {
  /** The provider's namespace. */
  readonly netns: OwnedFd;
  readonly path: string;
  readonly folder = mkdtempSync(join(tmpdir(), 'polynic-sealed-'));
  readonly a: Side;
  readonly b: Side;
  readonly #programs: Program[] = [];

  constructor(a: SideOptions, b: SideOptions) {
    this.netns = createNetns('provider');
    this.path = `/proc/${process.pid}/fd/${this.netns.fd}`;
    silenceIpv6(this.netns);
    this.a = new Side(this, 0, a);
    this.b = new Side(this, 1, b);
  }

  get sides(): readonly Side[] {
    return [this.a, this.b];
  }

  /** Everything runs, as far as it can. */
  async start(): Promise<void> {
    // A bridge that snoops multicast says so itself, in packets that nobody has sealed.
    this.ip('link', 'add', 'bridge', 'type', 'bridge', 'mcast_snooping', '0');
    this.ip('link', 'set', 'bridge', 'up');
    for (const side of this.sides) {
      side.spawnGuest();
      side.spawnServe();
    }
    for (const side of this.sides) {
      await side.plug();
      await side.setUp();
    }
  }

  async connected(): Promise<void> {
    for (const side of this.sides) {
      await side.guest.says(/device running/); // a new TAP has a carrier until its driver takes it
      await side.carrier();
    }
  }

  spawn(words: readonly string[]): Program {
    const program = new Program([...words, '--child-of', String(process.pid)]);
    this.#programs.push(program);
    return program;
  }

  ip(...words: string[]): void {
    const { status, stderr } = inNetns(this.netns, () => spawnSync('ip', words, { encoding: 'utf8' }));
    assert.equal(status, 0, `ip ${words.join(' ')}: ${stderr}`);
  }

  async close(): Promise<void> {
    await Promise.all(this.#programs.filter(({ alive }) => alive).map(program => program.end()));
    for (const { end } of this.sides) end.netns.close();
    this.netns.close();
    const sockets = readdirSync(this.folder).filter(name => name.endsWith('.sock'));
    rmSync(this.folder, { recursive: true });
    assert.deepEqual(sockets, [], 'sockets left behind');
    for (const { ending, left, output } of this.#programs) {
      assert.equal(ending?.code, 0, output);
      assert.deepEqual(left, { fds: 0, mappings: 0, buffers: 0 }, output);
    }
  }

  get output(): string {
    return this.#programs.map(({ output }) => output).join('\n');
  }
}

/** A test with a pair of its own; without what it needs it is skipped, and says why. */
export function sealedTest(
  name: string,
  options: { readonly a?: SideOptions; readonly b?: SideOptions },
  body: (pair: SealedPair, t: TestContext) => Promise<void>,
): void {
  test(name, { timeout: 300_000 }, async t => {
    const why = cannot() ?? (spawnSync('ip', ['-V']).error ? 'needs ip, for a bridge' : null);
    if (why) return t.skip(why);
    const before = { fds: openFds(), all: countProcessFds() };
    const pair = new SealedPair(options.a ?? {}, options.b ?? {});
    try {
      await pair.start();
      await body(pair, t);
    } catch (error) {
      t.diagnostic(pair.output);
      throw error;
    } finally {
      await pair.close();
    }
    assert.deepEqual(openFds(), before.fds, 'descriptors left open');
    assert.ok(countProcessFds() <= before.all, 'descriptors left open behind the table');
  });
}

/** Looks for bytes in the memory file that a guest hands to its device. */
export function searchMemory({ pid }: Program, marker: Buffer): number {
  const fds = `/proc/${pid}/fd`;
  const memory = readdirSync(fds).find(fd => target(join(fds, fd)).startsWith('/memfd:guest memory'));
  assert.ok(memory, 'the guest has no memory file');
  const fd = openSync(join(fds, memory), 'r');
  try {
    const piece = Buffer.alloc(1 << 20);
    for (let at = 0; ; at += piece.length - marker.length) {
      const length = readSync(fd, piece, 0, piece.length, at);
      const found = piece.subarray(0, length).indexOf(marker);
      if (found >= 0) return at + found;
      if (length < piece.length) return -1;
    }
  } finally {
    closeSync(fd);
  }
}

function target(link: string): string {
  try {
    return readlinkSync(link);
  } catch {
    return ''; // closed meanwhile
  }
}

function exists(name: string, netns: OwnedFd): boolean {
  try {
    linkInfo(name, netns);
    return true;
  } catch {
    return false;
  }
}

async function when(what: string, program: Program, is: () => boolean): Promise<void> {
  await eventually(() => is() || !program.alive, PATIENCE_MS).catch(() => assert.fail(`waited for ${what}`));
  assert.ok(program.alive, `waited for ${what}: ${program.output}`);
}
