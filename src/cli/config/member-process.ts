/** A member process as its parent sees it: this same program, started again. It dies with us. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { Leaks } from '../../observe/child-report.js';
import { ConfigError } from './errors.js';
import type { MemberMessage, MemberReply, MemberRequest } from './messages.js';

const POLYNIC = fileURLToPath(new URL('../../../../bin/polynic.js', import.meta.url));

export interface MemberEvents {
  /** The NIC has failed, and is closed. */
  onFailed(name: string, message: string): void;
  /** The process has ended without having been told to. Requests that it has not answered are rejected after this call. */
  onEnd(how: string): void;
}

/** A NIC has had enough time by then to send what its guest has published. */
const END_MS = 30_000;

/** An answer that is waited for. */
interface Pending {
  resolve(): void;
  reject(error: Error): void;
}

export class MemberProcess {
  readonly #child: ChildProcess;
  readonly #events: MemberEvents;
  readonly #pending = new Map<number, Pending>();
  readonly #ended: Promise<void>;
  #next = 1;
  #left: Leaks | null = null;
  #leaving = false;

  /** `what`: for who looks at the list of processes. */
  constructor(what: string, verbose: boolean, events: MemberEvents) {
    this.#events = events;
    const words = ['serve', '--members', what, '--child-of', String(process.pid), ...(verbose ? ['-v'] : [])];
    this.#child = spawn(process.execPath, [POLYNIC, ...words], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#child.stdin!.on('error', () => {}); // it has ended, which is told below
    createInterface(this.#child.stdout!).on('line', line => this.#hear(JSON.parse(line) as MemberMessage));
    this.#ended = new Promise(resolve => {
      const end = (how: string): void => {
        if (!this.#leaving) this.#events.onEnd(how);
        this.#leaving = true;
        for (const { reject } of this.#pending.values()) reject(gone(how));
        this.#pending.clear();
        resolve();
      };
      this.#child.once('error', error => end(error.message));
      this.#child.once('close', (code, signal) => end(signal ?? `exit code ${code}`));
    });
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Has it carry out a request; several at a time are carried out at once. Rejects with what it says, or ConfigError CONFIG_PROCESS when it has ended. */
  request(request: MemberRequest): Promise<void> {
    if (this.#leaving) return Promise.reject(gone('it was told to'));
    const id = this.#next++;
    const answer = new Promise<void>((resolve, reject) => this.#pending.set(id, { resolve, reject }));
    this.#child.stdin!.write(`${JSON.stringify({ id, ...request })}\n`);
    return answer;
  }

  /** Tells it to close all its NICs, and kills it when it does not. Resolves, when it has ended, to what it could not give back; null: it did not say. */
  async end(): Promise<Leaks | null> {
    this.#leaving = true;
    this.#child.kill('SIGTERM');
    const limit = setTimeout(() => this.#child.kill('SIGKILL'), END_MS);
    await this.#ended;
    clearTimeout(limit);
    return this.#left;
  }

  #hear(message: MemberMessage): void {
    if ('left' in message) this.#left = message.left;
    // Whoever waits for an answer that came just before this shall have it first.
    else if ('failed' in message) setImmediate(() => this.#events.onFailed(message.failed, message.message));
    else this.#settle(message);
  }

  #settle(reply: MemberReply): void {
    const pending = this.#pending.get(reply.id);
    this.#pending.delete(reply.id);
    if ('ok' in reply) pending?.resolve();
    else pending?.reject(Object.assign(new Error(reply.error.message), { code: reply.error.code }));
  }
}

function gone(how: string): ConfigError {
  return new ConfigError('CONFIG_PROCESS', `its process has ended: ${how}`);
}
