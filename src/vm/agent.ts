/** The host's side of the conversation with a guest's init (guest-init.ts): runs shell scripts in the guest. */
import type { Duplex } from 'node:stream';
import { VmError } from './errors.js';

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export class Agent {
  readonly #socket: Duplex;
  readonly #waiting = new Map<
    number,
    { resolve: (outcome: Outcome) => void; reject: (error: Error) => void }
  >();
  readonly #booting = new Set<{ resolve: () => void; reject: (error: Error) => void }>();
  #next = 1;
  #rest = '';
  #end: Error | null = null;

  constructor(socket: Duplex) {
    this.#socket = socket;
    socket.setEncoding('utf8');
    socket.on('data', text => this.#read(text as string));
    socket.on('error', () => {}); // `close` follows
    socket.once('close', () => this.fail(new VmError('VM_ENDED', 'the virtual machine ended')));
  }

  /** Resolves when the guest says, the next time, that it is ready; rejects when the machine ends before. */
  ready(): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#end) reject(this.#end);
      else this.#booting.add({ resolve, reject });
    });
  }

  /** Runs a script with the guest's `sh`. Several run at once. */
  run(script: string): Promise<Outcome> {
    return new Promise((resolve, reject) => {
      if (this.#end) return reject(this.#end);
      const id = this.#next++;
      this.#waiting.set(id, { resolve, reject });
      this.#socket.write(`${id} ${Buffer.from(script).toString('base64')}\n`);
    });
  }

  /** No answer will come any more. */
  fail(error: Error): void {
    this.#end = error;
    for (const { reject } of [...this.#waiting.values(), ...this.#booting]) reject(error);
    this.#waiting.clear();
    this.#booting.clear();
  }

  /** Takes over from another, whose guest has moved here with everything that it was doing. */
  succeed(before: Agent): void {
    this.#next = before.#next;
    for (const [id, waiting] of before.#waiting) this.#waiting.set(id, waiting);
    before.#waiting.clear();
  }

  #read(text: string): void {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop()!;
    for (const line of lines) this.#take(line.split(' '));
  }

  #take([id, code, stdout = '=', stderr = '=']: string[]): void {
    if (id === 'ready') {
      for (const { resolve } of this.#booting) resolve();
      this.#booting.clear();
      return;
    }
    const waiting = this.#waiting.get(Number(id));
    this.#waiting.delete(Number(id));
    waiting?.resolve({ code: Number(code), stdout: decoded(stdout), stderr: decoded(stderr) });
  }
}

function decoded(word: string): string {
  return Buffer.from(word.slice(1), 'base64').toString('utf8');
}
