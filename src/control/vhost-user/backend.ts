/**
 * The backend's end: takes requests off a connection, one at a time, lets a NIC carry them out, and answers those that are to be answered.
 *
 * What a peer sends wrongly costs it that request (an acknowledgement that says no, if it asked for one) as long as the header says how much to skip;
 * otherwise it costs the connection. Nothing that a peer sends makes serveVhostUser() throw.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { VhostControl } from '../../nic/vhost-control.js';
import type { Channel } from '../bpfhv-proxy/channel.js';
import { BackendSession } from './backend-session.js';
import {
  decodeRequest,
  encodeAck,
  encodeEmptyReply,
  isAnswered,
  type Message,
  type Request,
  requestLabel,
  wantsAck,
} from './messages.js';
import { type StreamLimits, VhostUserStream } from './stream.js';

export interface VhostBackendOptions extends Partial<StreamLimits> {
  /** A peer that has connected must begin its first request after so long, or it loses its place. Milliseconds, default 10 s. */
  readonly firstRequestTimeoutMs?: number;
  /** Ends the session from this side. */
  readonly signal?: AbortSignal;
  /** Told about each request that was refused: by the protocol (VhostUserError), the NIC (NicError …), or a fault in it. */
  readonly onRefused?: (request: string, error: Error) => void;
}

/** How a session ended. */
export interface VhostSessionEnd {
  readonly requests: number;
  readonly refused: number;
  /** Why, when it was not the peer that closed between two messages; `VHOST_CLOSED` also after an abort. */
  readonly error: Error | null;
}

/**
 * Serves one front end on a connected channel until either side ends it, then disconnects the NIC. Closes the channel. Never
 * rejects: what went wrong is in the result.
 */
export async function serveVhostUser(
  channel: Channel,
  nic: VhostControl,
  options: VhostBackendOptions = {},
): Promise<VhostSessionEnd> {
  const { firstRequestTimeoutMs = 10_000, signal, onRefused } = options;
  const stream = new VhostUserStream(channel, options);
  const session = new BackendSession(nic);
  const abort = (): void => stream.close();
  signal?.addEventListener('abort', abort);
  if (signal?.aborted) abort();

  let requests = 0;
  let refused = 0;
  let error: Error | null = null;
  try {
    for (;;) {
      const message = await stream.next(requests === 0 ? firstRequestTimeoutMs : undefined);
      if (message === null) break;
      requests += 1;
      const answer = await answerTo(message, session);
      if (answer.error !== null) {
        refused += 1;
        onRefused?.(requestLabel(message.request), answer.error);
      }
      if (answer.bytes !== null) stream.send(answer.bytes);
      await nextTurn(); // a peer that never stops asking must not keep the event loop from everything else
    }
  } catch (cause) {
    error = asError(cause);
  } finally {
    signal?.removeEventListener('abort', abort);
    stream.close();
  }
  try {
    await session.end();
  } catch (cause) {
    error ??= asError(cause);
  }
  return { requests, refused, error };
}

interface Answer {
  /** Null: this one gets none. */
  readonly bytes: Uint8Array | null;
  readonly error: Error | null;
}

async function answerTo(message: Message, session: BackendSession): Promise<Answer> {
  // As it was when the message came: the one that negotiates acknowledgements does not get one.
  const ack = wantsAck(message) && session.acknowledges;
  let request: Request;
  try {
    request = decodeRequest(message);
    session.check(request.name);
  } catch (cause) {
    for (const fd of message.fds) fd.close();
    return { bytes: no(message, ack), error: asError(cause) };
  }
  try {
    // From here on the fds are the session's, whatever comes of it.
    const reply = await session.carryOut(request);
    return { bytes: reply ?? (ack ? encodeAck(message.request, true) : null), error: null };
  } catch (cause) {
    return { bytes: no(message, ack), error: asError(cause) };
  }
}

/** The answer to a request that could not be carried out. */
function no({ request }: Message, ack: boolean): Uint8Array | null {
  if (isAnswered(request)) return encodeEmptyReply(request);
  return ack ? encodeAck(request, false) : null;
}

function asError(cause: unknown): Error {
  return cause instanceof Error ? cause : new Error(String(cause));
}
