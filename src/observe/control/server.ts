/**
 * The control socket's end in `serve` and `guest`: lets the same user, or root, look at the process and change it.
 *
 * ```
 *   connection ─► who is it? ─► read ──a line──► answer ──► read …
 *                   │             │ nothing for 10 s, or a line too long
 *                   └─ a stranger └──────────────────────────────────────► one last line that says why, the end
 * ```
 * Nothing that a client does throws, holds the others up, or takes more memory than the limits allow. A client has one request at a time;
 * what it sends meanwhile waits in the kernel.
 */
import type { UnixListener } from '../../linux/unix-listener.js';
import type { Received, UnixSocket } from '../../linux/unix-socket.js';
import { answerTo, ControlError, type Controlled, errorLine, MAX_REQUEST } from './messages.js';

export interface ControlLimits {
  /** Clients at a time; a further one is told so and let go. */
  readonly clients: number;
  /** A client must finish its next request within so long. Milliseconds. */
  readonly idleMs: number;
  /** Bytes of answers that may wait for a client which does not read. */
  readonly unread: number;
}

const CONTROL_LIMITS: ControlLimits = { clients: 16, idleMs: 10_000, unread: 1 << 18 };

const NEWLINE = 0x0a;

export class ControlServer {
  readonly #listener: UnixListener;
  readonly #controlled: Controlled;
  readonly #limits: ControlLimits;
  readonly #clients = new Set<Client>();

  /** Answers whoever connects to `listener`, which stays its owner's. `onError` hears, once, that no more connections can be had. */
  constructor(
    listener: UnixListener,
    controlled: Controlled,
    onError: (error: Error) => void,
    limits: Partial<ControlLimits> = {},
  ) {
    this.#listener = listener;
    this.#controlled = controlled;
    this.#limits = { ...CONTROL_LIMITS, ...limits };
    listener.onConnection(
      socket => this.#welcome(socket),
      error => {
        listener.close(); // it would fail again and again
        onError(error as Error);
      },
    );
  }

  /** Clients at present. */
  get clients(): number {
    return this.#clients.size;
  }

  /** Lets everybody go. */
  close(): void {
    this.#listener.close();
    for (const client of [...this.#clients]) client.close();
  }

  #welcome(socket: UnixSocket): void {
    const refusal = this.#refusal(socket);
    if (refusal) {
      farewell(socket, refusal);
      return;
    }
    const client = new Client(socket, this.#controlled, this.#limits, () => this.#clients.delete(client));
    this.#clients.add(client);
  }

  #refusal(socket: UnixSocket): ControlError | null {
    const { uid } = socket.peerCredentials();
    if (uid !== 0 && uid !== process.geteuid!()) {
      return new ControlError('CONTROL_DENIED', `user ${uid} has no business here`);
    }
    if (this.#clients.size < this.#limits.clients) return null;
    return new ControlError('CONTROL_BUSY', `${this.#clients.size} clients are connected already`);
  }
}

class Client {
  readonly #socket: UnixSocket;
  readonly #controlled: Controlled;
  readonly #idleMs: number;
  readonly #onClose: () => void;
  /** What has come of the next request. */
  readonly #buffer = new Uint8Array(MAX_REQUEST);
  #filled = 0;
  #timer: NodeJS.Timeout;

  constructor(socket: UnixSocket, controlled: Controlled, limits: ControlLimits, onClose: () => void) {
    this.#socket = socket;
    this.#controlled = controlled;
    this.#idleMs = limits.idleMs;
    this.#onClose = onClose;
    socket.queueLimit = limits.unread;
    this.#timer = this.#startTimer();
    this.#listen();
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#socket.close();
    this.#onClose();
  }

  #listen(): void {
    this.#socket.onReadable(() => this.#read());
  }

  #read(): void {
    let got: Received | null;
    try {
      got = this.#socket.receive(this.#buffer.subarray(this.#filled));
    } catch {
      this.close(); // the connection was reset
      return;
    }
    if (got === null) return;
    for (const fd of got.fds) fd.close();
    if (got.bytes === 0) {
      this.close();
      return;
    }
    this.#filled += got.bytes;
    this.#proceed();
  }

  /** Answers the request that is there as a whole, or waits for the rest of it. */
  #proceed(): void {
    const end = this.#buffer.subarray(0, this.#filled).indexOf(NEWLINE);
    if (end >= 0) {
      const line = new TextDecoder().decode(this.#buffer.subarray(0, end));
      this.#buffer.copyWithin(0, end + 1, this.#filled);
      this.#filled -= end + 1;
      void this.#answer(line);
    } else if (this.#filled === MAX_REQUEST) {
      this.#dismiss(new ControlError('CONTROL_REQUEST', `a request has ${MAX_REQUEST} bytes at most`));
    } else this.#listen();
  }

  async #answer(line: string): Promise<void> {
    clearTimeout(this.#timer);
    this.#socket.onReadable(null);
    const answer = await answerTo(line, this.#controlled);
    if (this.#socket.closed) return;
    try {
      this.#socket.send(new TextEncoder().encode(answer));
    } catch {
      this.close(); // it is gone, or asks and asks and does not read
      return;
    }
    this.#timer = this.#startTimer();
    // One that never stops asking must not keep the event loop from everybody else.
    setImmediate(() => {
      if (!this.#socket.closed) this.#proceed();
    });
  }

  #startTimer(): NodeJS.Timeout {
    const silent = () => this.#dismiss(new ControlError('CONTROL_TIMEOUT', `nothing for ${this.#idleMs} ms`));
    return setTimeout(silent, this.#idleMs);
  }

  #dismiss(error: ControlError): void {
    farewell(this.#socket, error);
    this.close();
  }
}

/** Says why, to one who may not even listen, and hangs up. */
function farewell(socket: UnixSocket, error: ControlError): void {
  try {
    socket.send(new TextEncoder().encode(errorLine(error)));
  } catch {}
  socket.close();
}
