/** A member process of `serve --config`: serves the NICs that its parent names (messages.ts), one alone or all of a switch. */
import { createInterface } from 'node:readline';
import { openFds } from '../../linux/fd.js';
import { openMappings } from '../../linux/mmap.js';
import { dieWithParent } from '../../linux/process.js';
import { Backend } from '../backend.js';
import { cleaningUp, createHost, type Host, untilStopped } from '../host.js';
import { createLog } from '../log.js';
import { whenAborted } from '../peers.js';
import { ConfigError } from './errors.js';
import type { MemberMessage, MemberRequest } from './messages.js';
import { parseWords } from './settings.js';

/** Runs until SIGTERM; other signals of a terminal or a supervisor are the parent's to obey. */
export function runMembers(parent: number, verbose: boolean): Promise<void> {
  return cleaningUp(async later => {
    const stop = untilStopped(['SIGTERM']);
    for (const signal of ['SIGINT', 'SIGHUP'] as const) process.on(signal, () => {});
    dieWithParent(parent);
    const host = createHost();
    const members = new Members(host, verbose);
    const lines = createInterface({ input: process.stdin });
    later(() => {
      lines.close();
      process.stdin.destroy();
      const left = { fds: openFds().length, mappings: openMappings().length, buffers: host.arena.live };
      say({ left });
    });
    lines.on('line', line => void members.obey(JSON.parse(line) as MemberRequest & { id: number }));
    await new Promise<void>(resolve => whenAborted(stop.signal, resolve));
    await members.close();
  });
}

interface Member {
  readonly backend: Backend;
  /** Resolves when it is closed, for whatever reason. */
  readonly over: Promise<void>;
}

class Members {
  readonly #host: Host;
  readonly #verbose: boolean;
  readonly #members = new Map<string, Member>();
  readonly #opening = new Set<Promise<unknown>>();
  /** Those that end because they were told to. */
  readonly #leaving = new Set<string>();

  constructor(host: Host, verbose: boolean) {
    this.#host = host;
    this.#verbose = verbose;
  }

  async obey({ id, ...request }: MemberRequest & { id: number }): Promise<void> {
    const work = this.#carryOut(request);
    if (request.op === 'open') this.#opening.add(work);
    try {
      await work;
      say({ id, ok: {} });
    } catch (error) {
      const { code = 'CONFIG_PROCESS', message } = error as Error & { code?: string };
      say({ id, error: { code, message: message.split('\n')[0]! } });
    } finally {
      this.#opening.delete(work);
    }
  }

  /** Closes all, with what the guests have published sent. */
  async close(): Promise<void> {
    await Promise.allSettled(this.#opening);
    await Promise.all([...this.#members.keys()].map(name => this.#close(name)));
  }

  #carryOut(request: MemberRequest): Promise<unknown> {
    switch (request.op) {
      case 'open':
        return this.#open(request.words);
      case 'change':
        return this.#change(request);
      case 'close':
        return this.#close(request.name);
    }
  }

  async #open(words: readonly string[]): Promise<void> {
    const options = parseWords(words);
    const name = options.name!;
    const backend = await Backend.open(options, this.#host, createLog(name, this.#verbose));
    this.#members.set(name, { backend, over: this.#run(name, backend) });
  }

  async #run(name: string, backend: Backend): Promise<void> {
    let failure: Error | null = null;
    const note = (error: Error): void => {
      failure ??= error;
    };
    await backend.run().catch(note);
    await backend.close().catch(note);
    this.#members.delete(name);
    if (!this.#leaving.delete(name)) {
      say({ failed: name, message: (failure as Error | null)?.message ?? 'it has ended' });
    }
  }

  async #change({ name, wish }: Extract<MemberRequest, { op: 'change' }>): Promise<void> {
    const member = this.#members.get(name);
    if (!member) throw new ConfigError('CONFIG_PROCESS', `${name} is not there`);
    await member.backend.controlled.upgrade!(wish);
  }

  /** One that is gone already is as good as closed. */
  async #close(name: string): Promise<void> {
    const member = this.#members.get(name);
    if (!member) return;
    this.#leaving.add(name);
    await member.backend.stop();
    await member.over;
  }
}

function say(message: MemberMessage): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}
