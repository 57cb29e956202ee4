/** The other end: asks a process by name. Its answers are somebody else's, so they are bounded in size and time. */
import { isErrno } from '../../linux/errors.js';
import { connectUnix, type UnixSocket } from '../../linux/unix-socket.js';
import { controlPath, isControlName, nameUsage, socketNames } from './address.js';
import { isServed, removeDead } from './claim.js';
import { ControlError, type ControlRequest, MAX_ANSWER, parseAnswer } from './messages.js';

/** What somebody who moves packets takes to answer at most. */
const PATIENCE_MS = 5000;
const NEWLINE = 0x0a;

export interface AskOptions {
  /** Milliseconds. */
  readonly timeoutMs?: number;
}

/** The names of the processes that can be asked, sorted. Dead sockets are removed on the way. */
export function livingNames(): string[] {
  return socketNames().filter(name => {
    const path = controlPath(name);
    if (isServed(path)) return true;
    removeDead(path);
    return false;
  });
}

/**
 * Sends one request to the process of that name, or at that path if there is a "/" in it. Rejects with ControlError: CONTROL_NAME (there is none),
 * CONTROL_TIMEOUT, CONTROL_CLOSED, CONTROL_ANSWER, or what the process answered; LinuxError when the socket can't be used.
 */
export async function ask(
  name: string,
  request: ControlRequest,
  { timeoutMs = PATIENCE_MS }: AskOptions = {},
): Promise<unknown> {
  const socket = connect(name);
  try {
    socket.send(new TextEncoder().encode(`${JSON.stringify(request)}\n`));
    return parseAnswer(await readLine(socket, name, timeoutMs));
  } catch (error) {
    if (isErrno(error, 'EPIPE', 'ECONNRESET')) throw closed(name);
    throw error;
  } finally {
    socket.close();
  }
}

function connect(name: string): UnixSocket {
  const isPath = name.includes('/');
  if (!isPath && !isControlName(name)) {
    throw new ControlError('CONTROL_NAME', `"${name}" is no name: a name has ${nameUsage}`);
  }
  try {
    if (!isPath && !socketNames().includes(name)) throw nobody(name);
    return connectUnix(isPath ? name : controlPath(name));
  } catch (error) {
    if (!isPath && isErrno(error, 'ENOENT', 'ECONNREFUSED')) throw nobody(name);
    if (isErrno(error, 'EAGAIN')) throw new ControlError('CONTROL_BUSY', `${name} is asked by too many`);
    throw error;
  }
}

function nobody(name: string): ControlError {
  const names = livingNames();
  const there = names.length === 0 ? 'none is running' : `there is ${names.join(', ')}`;
  return new ControlError('CONTROL_NAME', `no process is called "${name}": ${there}`);
}

function closed(name: string): ControlError {
  return new ControlError('CONTROL_CLOSED', `${name} hung up before it answered`);
}

/** The bytes up to the first end of line. */
function readLine(socket: UnixSocket, name: string, timeoutMs: number): Promise<string> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      reject(new ControlError('CONTROL_TIMEOUT', `${name} did not answer within ${timeoutMs / 1000} s`));
    }, timeoutMs);
    const settle = (then: () => void): void => {
      clearTimeout(timer);
      socket.onReadable(null);
      then();
    };
    socket.onReadable(() => {
      try {
        const chunk = new Uint8Array(65536);
        const got = socket.receive(chunk);
        if (got === null) return;
        for (const fd of got.fds) fd.close();
        if (got.bytes === 0) throw closed(name);
        const end = chunk.subarray(0, got.bytes).indexOf(NEWLINE);
        chunks.push(chunk.subarray(0, end < 0 ? got.bytes : end));
        length += got.bytes;
        if (length > MAX_ANSWER) throw new ControlError('CONTROL_ANSWER', `${name} answers without end`);
        if (end >= 0) settle(() => resolve(Buffer.concat(chunks).toString()));
      } catch (error) {
        settle(() => reject(error));
      }
    });
  });
}
