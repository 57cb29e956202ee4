/**
 * The backend's end: takes requests off a connection, one at a time, lets a NIC carry them out, and answers.
 *
 * What a peer sends wrongly costs it that request (an error response) as long as the header says how much to skip;
 * otherwise it costs the connection. Nothing that a peer sends makes serveBackend() throw.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { OwnedFd } from '../../linux/fd.js';
import type { NicControl } from '../../nic/control.js';
import type { Channel } from './channel.js';
import {
  decodeRequest,
  encodeErrorResponse,
  encodeResponse,
  type Message,
  type Request,
  type RequestName,
  type ResponseValues,
  requestLabel,
} from './messages.js';
import { MessageStream, type StreamLimits } from './stream.js';

export interface BackendOptions extends Partial<StreamLimits> {
  /** A peer that has connected must begin its first request after so long, or it loses its place. Milliseconds, default 10 s. */
  readonly firstRequestTimeoutMs?: number;
  /** Ends the session from this side. */
  readonly signal?: AbortSignal;
  /** Told about each request that was answered with an error: by the protocol (ProxyError), the NIC (NicError), or a fault in it. */
  readonly onRefused?: (request: string, error: Error) => void;
}

/** Requests between two looks at everything else. */
const BREATH = 8;

/** How a session ended. */
export interface SessionEnd {
  readonly requests: number;
  readonly refused: number;
  /** Why, when it was not the peer that closed between two messages; `PROXY_CLOSED` also after an abort. */
  readonly error: Error | null;
}

/**
 * Serves one hypervisor on a connected channel until either side ends it, then disconnects the NIC. Closes the channel. Never
 * rejects: what went wrong is in the result.
 */
export async function serveBackend(
  channel: Channel,
  nic: NicControl,
  options: BackendOptions = {},
): Promise<SessionEnd> {
  const { firstRequestTimeoutMs = 10_000, signal, onRefused } = options;
  const stream = new MessageStream(channel, options);
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
      const answer = await answerTo(message, nic);
      if (answer.error !== null) {
        refused += 1;
        onRefused?.(requestLabel(message.reqtype), answer.error);
      }
      stream.send(answer.bytes, answer.fds);
      // A peer that never stops asking must not keep the event loop from everything else.
      if (requests % BREATH === 0) await nextTurn();
    }
  } catch (cause) {
    error = asError(cause);
  } finally {
    signal?.removeEventListener('abort', abort);
    stream.close();
  }
  try {
    await nic.disconnect();
  } catch (cause) {
    error ??= asError(cause);
  }
  return { requests, refused, error };
}

interface Answer {
  readonly bytes: Uint8Array;
  /** Borrowed from the NIC. */
  readonly fds: readonly OwnedFd[];
  readonly error: Error | null;
}

async function answerTo(message: Message, nic: NicControl): Promise<Answer> {
  let request: Request;
  try {
    request = decodeRequest(message);
  } catch (cause) {
    for (const fd of message.fds) fd.close();
    return failure(message, cause);
  }
  try {
    // From here on the fds are the NIC's, whatever it answers.
    return { ...(await carryOut(request, nic)), error: null };
  } catch (cause) {
    return failure(message, cause);
  }
}

/** The whole meaning of the protocol: each request is one call. */
async function carryOut(
  request: Request,
  nic: NicControl,
): Promise<{ bytes: Uint8Array; fds: readonly OwnedFd[] }> {
  const { name, values, fds } = request;
  switch (name) {
    case 'GET_FEATURES':
      return reply(name, { features: nic.features() });
    case 'SET_FEATURES':
      nic.setFeatures(values.features);
      return reply(name, {});
    case 'SET_PARAMETERS':
      return reply(name, nic.setParameters(values));
    case 'GET_PROGRAMS':
      return reply(name, {}, [nic.programs()]);
    case 'SET_MEM_TABLE':
      await nic.setMemoryTable(fds.map((fd, i) => ({ ...values.regions[i]!, fd })));
      return reply(name, {});
    case 'SET_QUEUE_CTX':
      await nic.setQueueContext(values.queue, values.guestPhysicalAddress);
      return reply(name, {});
    case 'SET_QUEUE_KICK':
      await nic.setQueueKick(values.queue, fds[0] ?? null);
      return reply(name, {});
    case 'SET_QUEUE_IRQ':
      await nic.setQueueIrq(values.queue, fds[0] ?? null);
      return reply(name, {});
    case 'SET_UPGRADE':
      nic.setUpgrade(fds[0]!);
      return reply(name, {});
    case 'RX_ENABLE':
    case 'TX_ENABLE':
      await nic.enable(name === 'RX_ENABLE' ? 'rx' : 'tx');
      return reply(name, {});
    case 'RX_DISABLE':
    case 'TX_DISABLE':
      await nic.disable(name === 'RX_DISABLE' ? 'rx' : 'tx');
      return reply(name, {});
  }
}

function reply<N extends RequestName>(
  name: N,
  values: ResponseValues<N>,
  fds: readonly OwnedFd[] = [],
): { bytes: Uint8Array; fds: readonly OwnedFd[] } {
  return { bytes: encodeResponse(name, values), fds };
}

function failure(message: Message, cause: unknown): Answer {
  return { bytes: encodeErrorResponse(message.reqtype), fds: [], error: asError(cause) };
}

function asError(cause: unknown): Error {
  return cause instanceof Error ? cause : new Error(String(cause));
}
