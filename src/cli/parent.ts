/**
 * What `serve` and `guest` do for a program that starts them as its children, such as the demo.
 *
 * `--child-of PID` (not in the help): the process dies with that parent, and talks to it in lines of JSON.
 *
 * ```
 *   parent                        child
 *   an empty line on stdin  ──►
 *                           ◄──   {"queues":[…],"flow":…,"port":…}             counters as they are now
 *   {"op":"upgrade",…}      ──►   any request of a control socket (src/observe/control/messages.ts); several are answered in order
 *                           ◄──   {"reply":{"ok":…}} or {"reply":{"error":…}}
 *   SIGTERM                 ──►   stops in good order, closes everything
 *                           ◄──   {"left":{"fds":0,"mappings":0,"buffers":0}}  what it holds even then: leaks
 * ```
 * `fd:N` in place of a socket's path is a connected socket that the parent left open for us: no file that could be left behind. When that
 * conversation is over, so is the command.
 */
import { createInterface } from 'node:readline';
import { inheritFd, openFds, setNonblocking } from '../linux/fd.js';
import { openMappings } from '../linux/mmap.js';
import { dieWithParent } from '../linux/process.js';
import { UnixSocket } from '../linux/unix-socket.js';
import { answerTo, type Controlled } from '../observe/control/messages.js';

/** Answers the parent from now on. The returned function says goodbye: call it when everything is closed, with the buffers still out. */
export function answerParent(pid: number | undefined, controlled: Controlled): (buffers: number) => void {
  if (pid === undefined) return () => {};
  dieWithParent(pid);
  let answered = Promise.resolve();
  const lines = createInterface({ input: process.stdin });
  lines.on('line', line => {
    if (line === '') say(JSON.stringify(controlled.stats()));
    else {
      answered = answered.then(async () => say(`{"reply":${(await answerTo(line, controlled)).trimEnd()}}`));
    }
  });
  return buffers => {
    lines.close();
    process.stdin.destroy();
    const left = { fds: openFds().length, mappings: openMappings().length, buffers };
    say(JSON.stringify({ left }));
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

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
