/**
 * A machine whose NICs are those of a configuration file, and its guests:
 *
 * ```
 *   vm0 10.9.0.10 ══ TAP ══ polynic guest ── vm0.sock ──┐
 *   vm1 10.9.0.11 ══ TAP ══ polynic guest ── vm1.sock ──┼── processes of polynic serve --config FILE
 *   vm2           source ══ polynic guest ── vm2.sock ──┘
 * ```
 * At the end every process, socket and descriptor must be gone, or the test fails.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { openFds } from '../../src/linux/fd.js';
import { changeLink, type LinkInfo } from '../../src/linux/link.js';
import { type LinkMonitor, monitorLink } from '../../src/linux/link-monitor.js';
import { addAddress, setNeighbour } from '../../src/linux/route.js';
import { cannot, type End, makeEnd } from './harness.js';
import { Program } from './program.js';
import { type Tally, UdpFlow } from './traffic.js';

const LIMIT_MS = 240_000;
/** Under way at most: less than a TAP's queue holds, or a switch keeps for a port, so that only the NICs could lose one. */
const WINDOW = 64;

export type Protocol = 'bpfhv-proxy' | 'vhost-user';

/** A NIC in the file. */
export type NicWords = Readonly<Record<string, string | number | boolean>> & { readonly name: string };

/** What `polynic ls` says of a NIC. */
export interface Listed {
  readonly name: string;
  readonly pid: number;
  readonly device: string;
  readonly port: string;
  readonly running: boolean;
}

export class Site {
  readonly folder = mkdtempSync(join(tmpdir(), 'polynic-site-'));
  readonly file = join(this.folder, 'nics.json');
  readonly ends: End[] = [];
  serve!: Program;
  readonly #guests: Program[] = [];
  readonly #flows: UdpFlow[] = [];
  readonly #pids = new Set<number>();

  /** `NAME.sock` of the NIC. */
  socket(name: string): string {
    return join(this.folder, `${name}.sock`);
  }

  /** Writes the file: a text, or NICs whose sockets are the usual ones. */
  write(content: string | readonly NicWords[]): void {
    const nics = typeof content === 'string' ? [] : content;
    const whole = nics.map(nic =>
      'vhost-user' in nic ? nic : { 'bpfhv-proxy': this.socket(nic.name), ...nic },
    );
    writeFileSync(this.file, typeof content === 'string' ? content : JSON.stringify({ nics: whole }));
  }

  /** Starts `polynic serve --config`; resolves when the file is applied. */
  async start(): Promise<void> {
    this.serve = new Program(['serve', '--config', this.file, '-v']);
    await this.serve.says(/ is applied: /);
  }

  /** SIGHUP; resolves when the file is applied, to what was done. */
  async reload(): Promise<string> {
    const { length } = this.serve.stderr;
    process.kill(this.serve.pid, 'SIGHUP');
    await this.serve.says(/ is applied: .*\n/, { after: length });
    return / is applied: (.*)\n/.exec(this.serve.stderr.slice(length))![1]!;
  }

  /** A guest with a TAP in a namespace of its own, which knows the addresses of those before. Resolves when its link is up. */
  async guest(protocol: Protocol = 'bpfhv-proxy', ...words: string[]): Promise<End> {
    const i = this.ends.length;
    const end = makeEnd(`vm${i}`, `10.9.0.${10 + i}`, `02:00:00:00:0b:0${i}`);
    this.ends.push(end);
    const program = this.#run(`vm${i}`, protocol, `tap:${end.interface},netns=${end.path}`, [
      ...['--mac', end.mac, ...words],
    ]);
    await when(end, program, link => link?.mac === end.mac);
    addAddress(end.interface, `${end.ip}/24`, end.netns);
    changeLink(end.interface, { up: true }, end.netns);
    for (const other of this.ends.slice(0, i)) {
      setNeighbour(end.interface, other.ip, other.mac, end.netns);
      setNeighbour(other.interface, end.ip, end.mac, other.netns);
    }
    await when(end, program, link => link?.carrier === true);
    return end;
  }

  /** A guest that only sends, of whatever name. */
  sender(name: string): Program {
    return this.#run(name, 'bpfhv-proxy', 'source', []);
  }

  async list(): Promise<Listed[]> {
    const ls = new Program(['ls', '--json']);
    await ls.ended;
    const rows = (JSON.parse(ls.stdout) as (Listed & { role: string })[]).filter(
      ({ role }) => role === 'serve',
    );
    for (const { pid } of rows) this.#pids.add(pid);
    return rows;
  }

  /** Datagrams both ways between two of the guests, with numbers; they go on until `settle`. */
  async flows(
    a: End,
    b: End,
    seed: number,
  ): Promise<{ more: () => Promise<unknown>; settle: () => Promise<void> }> {
    const flows = [
      await UdpFlow.start(a, b, { seed, window: WINDOW }),
      await UdpFlow.start(b, a, { seed: seed + 1, window: WINDOW }),
    ];
    this.#flows.push(...flows);
    const more = () => Promise.all(flows.map(flow => flow.more(100)));
    await more();
    const settle = async (): Promise<void> => {
      await more();
      for (const flow of flows) {
        const { sent, got } = await flow.stop();
        const { packets, corrupt, repeated, late }: Tally = got;
        assert.deepEqual(
          { packets, corrupt, repeated, late },
          { packets: sent.packets, corrupt: 0, repeated: 0, late: 0 },
        );
      }
    };
    return { more, settle };
  }

  /** Ends everything, and looks whether something is left. */
  async close(): Promise<void> {
    await Promise.all(this.#flows.map(flow => flow.abandon()));
    if (this.serve?.alive) await this.serve.end();
    await Promise.all(this.#guests.filter(guest => guest.alive).map(guest => guest.end()));
    for (const { netns } of this.ends) netns.close();
    const files = readdirSync(this.folder, { recursive: true });
    rmSync(this.folder, { recursive: true });
    const left = files.filter(name => name !== 'nics.json' && name !== 'polynic');
    assert.deepEqual(left, [], 'files left behind');
    assert.doesNotMatch(this.serve.stderr, /not given back|without a word/);
    for (const pid of this.#pids) assert.ok(!existsSync(`/proc/${pid}`), `process ${pid} is left`);
    for (const { ending, output } of this.#guests)
      assert.deepEqual(ending, { code: 0, signal: null }, output);
  }

  get output(): string {
    return [this.serve, ...this.#guests].map(program => program?.output).join('\n');
  }

  #run(name: string, protocol: Protocol, netdev: string, words: readonly string[]): Program {
    const program = new Program([
      ...['guest', `--${protocol}`, this.socket(name), '--netdev', netdev, '--name', `${name}-guest`],
      ...['-v', '--child-of', String(process.pid), ...words],
    ]);
    this.#guests.push(program);
    return program;
  }
}

/** Waits for a state of an interface, as long as the program lives that has to bring it about. */
async function when(end: End, program: Program, is: (link: LinkInfo | null) => boolean): Promise<void> {
  let monitor: LinkMonitor | undefined;
  await new Promise<void>((resolve, reject) => {
    monitor = monitorLink(end.interface, end.netns, link => {
      if (is(link)) resolve();
    });
    void program.ended.then(() => reject(new Error(`${end.interface}: its guest ended\n${program.output}`)));
  }).finally(() => monitor?.close());
}

/** A test on a site of its own; without the rights or the devices it needs it is skipped, and says so. */
export function siteTest(name: string, body: (site: Site, t: TestContext) => Promise<void>): void {
  test(name, { timeout: LIMIT_MS }, async t => {
    const why = cannot();
    if (why) return t.skip(why);
    const before = openFds();
    const site = new Site();
    process.env.XDG_RUNTIME_DIR = site.folder;
    try {
      await body(site, t);
    } catch (error) {
      t.diagnostic(site.output);
      throw error;
    } finally {
      await site.close();
    }
    assert.deepEqual(openFds(), before, 'descriptors left open');
  });
}
