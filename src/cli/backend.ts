/**
 * A NIC that is served to one guest after the other: its port, its control socket, and how it meets hypervisors. `serve` has one in its process,
 * `serve --config` as many as the file says.
 *
 * ```
 *   open ──► run ── a hypervisor, the next one, … ──┬─ stop: queues stop, with what the guest has published sent; it hangs up
 *                                                   └─ the worker fails, the TAP is deleted
 *                                                   ──► close
 * ```
 */
import type { Channel } from '../control/bpfhv-proxy/index.js';
import { getAffinity } from '../linux/process.js';
import type { ControlInfo, Controlled } from '../observe/control/messages.js';
import { keepAdapting } from './adapting.js';
import { type Control, openControl } from './control.js';
import { readCounters } from './counters.js';
import { type Host, Undo } from './host.js';
import { type Log, sparing } from './log.js';
import { DEFAULT_NAME, type NicOptions } from './nic-options.js';
import { meetPeers } from './peers.js';
import { type ServedNic, START } from './served-nic.js';
import { ServedPort } from './served-port.js';

export interface BackendOptions extends NicOptions {
  /** As `--child-of`. */
  readonly childOf?: number | undefined;
  /** Ends who serves the NIC; without it a control socket's `leave` is refused. */
  readonly leave?: () => void;
}

export class Backend {
  readonly #options: BackendOptions;
  readonly #host: Host;
  readonly #log: Log;
  /** What a hypervisor can provoke must not fill a disk. */
  readonly #warn: Log;
  readonly #undo: Undo;
  readonly #port: ServedPort;
  readonly #nic: ServedNic;
  /** Ends the meeting of hypervisors. */
  readonly #hangUp = new AbortController();
  /** Ends the present conversation alone. */
  #conversation = new AbortController();
  #connected = false;
  #failure: Error | null = null;

  private constructor(
    options: BackendOptions,
    host: Host,
    log: Log,
    parts: { undo: Undo; port: ServedPort; nic: ServedNic },
  ) {
    this.#options = options;
    this.#host = host;
    this.#log = log;
    this.#warn = sparing(log);
    this.#undo = parts.undo;
    this.#port = parts.port;
    this.#nic = parts.nic;
    // Without its worker or its TAP it could only pretend to be a NIC: whoever watches it is to start another.
    const fail = (error: Error): void => {
      this.#failure = error;
      this.#hangUp.abort();
    };
    this.#nic.onFailure = fail;
    this.#port.onGone = fail;
  }

  /** Opens port and NIC; whoever asks its control socket is answered from now on. Throws what any of these throws, and leaves nothing behind. */
  static async open(options: BackendOptions, host: Host, log: Log): Promise<Backend> {
    const undo = new Undo();
    try {
      const control: Control = openControl(options, DEFAULT_NAME, log, undo.later);
      const port = new ServedPort(options.port, host, options.queues, log);
      undo.later(() => port.close());
      const warn = sparing(log);
      const nic = await START[options.kind]({
        ...{ ...host, device: options.device, port, offloads: options.offload },
        limits: { queuePairs: options.queues, bufs: options.bufs },
        spin: options.spin ?? false,
        workers: options.workers,
        sleepMicroseconds: options.sleepUs,
        requireSealed: options.requireSealed ?? false,
        packed: !options.split,
        pci: {
          mac: options.mac,
          doorbellSize: options.doorbellSize,
          transitional: options.transitional,
          msix: options.msix,
        },
        capture: options.pcap,
        log: (level, message) => (level === 'warn' ? warn : log)(level, message),
      });
      undo.later(() => nic.close());
      const backend = new Backend(options, host, log, { undo, port, nic });
      control.answer(backend.controlled);
      if (options.adaptive && nic.bpfhv) {
        const processors = Math.floor(getAffinity().length / options.workers);
        undo.later(keepAdapting({ nic: nic.bpfhv, log, processors }));
      }
      return backend;
    } catch (error) {
      await undo.run().catch(() => {});
      throw error;
    }
  }

  get queues() {
    return this.#nic.stats().queues;
  }

  portCounters() {
    return this.#port.handle.counters();
  }

  /** What it lets itself be asked. */
  get controlled(): Controlled {
    const { path, listens, leave } = this.#options;
    // Only who connects comes back by himself.
    const hangUp = listens || path.startsWith('fd:') ? undefined : () => this.#hangUpOnce();
    return {
      info: (): ControlInfo => ({
        ...{ pid: process.pid, role: 'serve', device: this.#nic.device, port: this.#port.spec },
        ...{ socket: path, connected: this.#connected, running: this.#nic.running },
        ...{ queues: this.queues.length, features: `0x${this.#nic.agreed.toString(16)}` },
      }),
      stats: () => readCounters(this.#host.window, this.#port.handle, this.queues),
      dump: () => this.#nic.dump(),
      upgrade: wish => this.#nic.upgrade(wish, hangUp),
      ...(leave && { leave }),
    };
  }

  /** Meets hypervisors. Resolves when it was stopped and the last one is gone, or the one of `fd:N`; rejects when the NIC fails. */
  async run(): Promise<void> {
    const { path, listens } = this.#options;
    await meetPeers({
      ...{ path, listens, session: channel => this.#session(channel) },
      ...{ signal: this.#hangUp.signal, log: this.#log, peer: 'a hypervisor' },
    });
    if (this.#failure) throw this.#failure;
  }

  /** Stops the queues first, with what the guest has published sent, then lets the hypervisor go. */
  async stop(): Promise<void> {
    await this.#stopQueues();
    this.#hangUp.abort();
  }

  /** Gives everything back. `run` is over, or was not called. */
  close(): Promise<void> {
    return this.#undo.run();
  }

  async #session(channel: Channel): Promise<boolean> {
    this.#log('info', 'hypervisor connected');
    this.#connected = true;
    this.#conversation = new AbortController();
    const ends = [this.#hangUp.signal, this.#conversation.signal];
    const { requests, refused, error } = await this.#nic.converse(channel, {
      signal: AbortSignal.any(ends),
      // Who listens holds nobody's place, and may begin late: a VMM that first fills its huge pages.
      ...(this.#options.listens ? {} : { firstRequestTimeoutMs: Number.POSITIVE_INFINITY }),
      onRefused: (request, reason) => this.#warn('warn', `${request} refused: ${reason.message}`),
    });
    this.#connected = false;
    const lost = error !== null && !ends.some(signal => signal.aborted);
    this.#log(lost ? 'warn' : 'info', lost ? `hypervisor lost: ${error.message}` : 'hypervisor gone');
    // One whom we could not serve is no reason to be back at once.
    return requests > 0 && refused === 0;
  }

  async #hangUpOnce(): Promise<void> {
    const conversation = this.#conversation; // there may be another one by then
    await this.#stopQueues();
    conversation.abort();
  }

  async #stopQueues(): Promise<void> {
    try {
      await this.#nic.stop();
    } catch (error) {
      this.#log('error', (error as Error).message);
    }
  }
}
