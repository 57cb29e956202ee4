/**
 * How a command meets its peers over bpfhv-proxy, one after the other, until it is told to stop:
 *
 * ```
 *   --listen    makes the socket, serves who connects, one at a time
 *   --connect   connects to the socket, again and again while nobody listens there
 *   fd:N        one conversation over a socket that the parent process left open
 * ```
 */
import {
  type Channel,
  ConnectionSlot,
  keepConnected,
  type RetryTimings,
  socketChannel,
} from '../control/bpfhv-proxy/index.js';
import { UnixListener } from '../linux/unix-listener.js';
import { connectUnix } from '../linux/unix-socket.js';
import type { Log } from './log.js';
import { inheritedSocket } from './parent.js';

/** Uses a connection until it is over; says whether the peer was of any use. */
export type Session = (channel: Channel) => Promise<boolean>;

export interface Meeting {
  readonly path: string;
  readonly listens: boolean;
  readonly session: Session;
  readonly signal: AbortSignal;
  readonly log: Log;
  /** Who is at the other end, for messages: "a hypervisor". */
  readonly peer: string;
  /** Pauses between attempts to connect. */
  readonly timings?: Partial<RetryTimings>;
}

/** Resolves when the signal has aborted and the last session is over, or with the one session of `fd:N`. Rejects when the socket can't be used. */
export async function meetPeers(meeting: Meeting): Promise<void> {
  const inherited = inheritedSocket(meeting.path);
  if (inherited) await meeting.session(socketChannel(inherited));
  else if (meeting.listens) await listen(meeting);
  else await connect(meeting);
}

async function listen({ path, session, signal, log }: Meeting): Promise<void> {
  const slot = new ConnectionSlot(session);
  const listener = UnixListener.listen(path);
  const failed = new Promise<never>((_, reject) => {
    listener.onConnection(socket => slot.offer(socketChannel(socket)), reject);
  });
  log('info', `listening on ${path}`);
  const aborted = new Promise<void>(resolve => whenAborted(signal, resolve));
  try {
    await Promise.race([failed, aborted]);
  } finally {
    listener.close();
    await slot.close();
  }
}

async function connect({ path, session, signal, log, peer, timings }: Meeting): Promise<void> {
  let waiting = false;
  await keepConnected({
    connect: () => socketChannel(connectUnix(path)),
    session: channel => {
      waiting = false;
      return session(channel);
    },
    signal,
    timings,
    onWait: (_delay, error) => {
      if (error && !waiting) log('warn', `waiting for ${peer}: ${error.message}`);
      waiting ||= error !== null;
    },
  });
}

/** Calls `action` once when the signal aborts, or now if it has. */
export function whenAborted(signal: AbortSignal, action: () => void): void {
  if (signal.aborted) action();
  else signal.addEventListener('abort', action, { once: true });
}
