/** The port of a `serve`, as the user named it; another one may take its place while the NIC runs. */
import type { LinkMonitor } from '../linux/link-monitor.js';
import type { PortHandle } from '../port/port.js';
import { openPort } from '../port/registry.js';
import type { Host } from './host.js';
import type { Log } from './log.js';
import { tellOffloads } from './tap-offloads.js';
import { asTap, watchTap } from './tap-watch.js';

export class ServedPort {
  #spec: string;
  #handle: PortHandle;
  #monitor: LinkMonitor | null;
  readonly #host: Host;
  readonly #lanes: number;
  readonly #log: Log;
  /** Told when the interface behind it is deleted. */
  onGone: (error: Error) => void = () => {};

  /** `lanes`: at most. Throws PortError, LinuxError. */
  constructor(spec: string, host: Host, lanes: number, log: Log) {
    this.#host = host;
    this.#lanes = lanes;
    this.#log = log;
    this.#spec = spec;
    this.#handle = openPort(spec, host, lanes);
    tellOffloads(this.#handle, log);
    this.#monitor = this.#watch();
  }

  get spec(): string {
    return this.#spec;
  }

  get handle(): PortHandle {
    return this.#handle;
  }

  /** Opens another one, has it used by `use`, and closes the former one; when that fails the other is closed, and nothing has changed. */
  async replace<T>(spec: string, use: (port: PortHandle) => Promise<T>): Promise<T> {
    const next = openPort(spec, this.#host, this.#lanes);
    let result: T;
    try {
      result = await use(next);
    } catch (error) {
      next.close();
      throw error;
    }
    this.close();
    this.#spec = spec;
    this.#handle = next;
    tellOffloads(next, this.#log);
    this.#monitor = this.#watch();
    return result;
  }

  close(): void {
    this.#monitor?.close();
    this.#handle.close();
  }

  #watch(): LinkMonitor | null {
    const tap = asTap(this.#handle);
    return (
      tap &&
      watchTap(
        tap,
        () => {},
        error => this.onGone(error),
      )
    );
  }
}
