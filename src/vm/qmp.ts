/**
 * QEMU's monitor protocol: JSON, an object a line, over a stream socket.
 *
 * ```
 *   QEMU ──► {"QMP": …}                      the greeting
 *        ◄── {"execute":"qmp_capabilities"}
 *        ◄── {"execute":"migrate","arguments":{…},"id":7}
 *        ──► {"return":{},"id":7}            or {"error":{"class":…,"desc":…},"id":7}
 *        ──► {"event":"STOP", …}             at any time
 * ```
 */
import type { Duplex } from 'node:stream';
import { VmError } from './errors.js';

export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
}

interface Answer {
  readonly QMP?: object;
  readonly event?: string;
  readonly data?: Record<string, unknown>;
  readonly id?: number;
  readonly return?: unknown;
  readonly error?: { readonly desc: string };
}

interface Pending {
  readonly command: string;
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
}

export class Qmp {
  /** Everything that happened, oldest first. */
  readonly events: QmpEvent[] = [];
  readonly #socket: Duplex;
  readonly #pending = new Map<number, Pending>();
  readonly #listeners = new Set<() => void>();
  #next = 1;
  #rest = '';
  #closed = false;

  private constructor(socket: Duplex) {
    this.#socket = socket;
    socket.setEncoding('utf8');
    socket.on('data', text => this.#read(text as string));
    socket.on('error', () => {}); // `close` follows
    socket.once('close', () => this.#end());
  }

  /** Begins the conversation on a connected socket. Rejects with VmError VM_ENDED when QEMU goes. */
  static async open(socket: Duplex): Promise<Qmp> {
    const qmp = new Qmp(socket);
    await qmp.execute('qmp_capabilities');
    return qmp;
  }

  /** Runs a command. Rejects with VmError: VM_QMP with QEMU's reason, VM_ENDED. */
  execute(command: string, args: object = {}): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#closed) return reject(new VmError('VM_ENDED', `${command}: QEMU is gone`));
      const id = this.#next++;
      this.#pending.set(id, { command, resolve, reject });
      this.#socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    });
  }

  /** Waits for an event of which `wanted` is true, among those since `after` (a former `events.length`). Rejects with VmError VM_ENDED. */
  event(wanted: (event: QmpEvent) => boolean, after = 0): Promise<QmpEvent> {
    return new Promise((resolve, reject) => {
      const look = (): void => {
        const found = this.events.slice(after).find(wanted);
        if (!found && !this.#closed) return;
        this.#listeners.delete(look);
        if (found) resolve(found);
        else reject(new VmError('VM_ENDED', 'waited for an event: QEMU is gone'));
      };
      this.#listeners.add(look);
      look();
    });
  }

  close(): void {
    this.#socket.destroy();
  }

  #read(text: string): void {
    const lines = (this.#rest + text).split('\n');
    this.#rest = lines.pop()!;
    for (const line of lines) if (line.trim() !== '') this.#take(JSON.parse(line) as Answer);
  }

  #take(answer: Answer): void {
    if (answer.event !== undefined) {
      this.events.push({ event: answer.event, data: answer.data ?? {} });
      this.#tell();
    } else if (answer.id !== undefined) {
      const pending = this.#pending.get(answer.id);
      this.#pending.delete(answer.id);
      if (answer.error) pending?.reject(new VmError('VM_QMP', `${pending.command}: ${answer.error.desc}`));
      else pending?.resolve(answer.return);
    }
  }

  #end(): void {
    this.#closed = true;
    for (const { command, reject } of this.#pending.values()) {
      reject(new VmError('VM_ENDED', `${command}: QEMU ended before it answered`));
    }
    this.#pending.clear();
    this.#tell();
  }

  #tell(): void {
    for (const listener of [...this.#listeners]) listener();
  }
}
