/**
 * What `serve` and `guest` do for a program that starts them as its children, such as the demo.
 *
 * `--child-of PID` (not in the help): the process dies with that parent, and talks to it in lines of JSON.
 *
 * ```
 *   parent                        child
 *   an empty line on stdin  ──►
 *                           ◄──   {"queues":[…],"flow":…,"port":…}             counters as they are now
 *   SIGTERM                 ──►   stops in good order, closes everything
 *                           ◄──   {"left":{"fds":0,"mappings":0,"buffers":0}}  what it holds even then: leaks
 * ```
 * `fd:N` in place of a socket's path is a connected socket that the parent left open for us: no file that could be left behind. When that
 * conversation is over, so is the command.
 */
import { inheritFd, openFds, setNonblocking } from '../linux/fd.js';
import { openMappings } from '../linux/mmap.js';
import { dieWithParent } from '../linux/process.js';
import { UnixSocket } from '../linux/unix-socket.js';
import type { Window } from '../memory/window.js';
import type { ChildCounters } from '../observe/child-report.js';
import { readFlow } from '../port/flow.js';
import type { PortHandle } from '../port/port.js';

export interface ParentOptions {
  readonly window: Window;
  readonly port: PortHandle;
  queues(): ChildCounters['queues'];
}

/** Answers the parent from now on. The returned function says goodbye: call it when everything is closed, with the buffers still out. */
export function answerParent(
  pid: number | undefined,
  { window, port, queues }: ParentOptions,
): (buffers: number) => void {
  if (pid === undefined) return () => {};
  dieWithParent(pid);
  const { kind, state } = port.descriptor;
  const hasFlow = kind === 'source' || kind === 'sink';
  const answer = (): void => {
    const flow = hasFlow ? readFlow(window, state) : null;
    say({ queues: queues(), flow, port: port.counters() } satisfies ChildCounters);
  };
  process.stdin.on('data', answer);
  return buffers => {
    process.stdin.off('data', answer).destroy();
    say({ left: { fds: openFds().length, mappings: openMappings().length, buffers } });
  };
}

/** The socket that `fd:N` names; null when the words are a path. */
export function inheritedSocket(path: string): UnixSocket | null {
  const [, digits] = /^fd:(\d+)$/.exec(path) ?? [];
  if (digits === undefined) return null;
  const owner = inheritFd(Number(digits), path);
  setNonblocking(owner.fd, true);
  return new UnixSocket(owner);
}

function say(message: object): void {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}
