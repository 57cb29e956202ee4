/**
 * A virtual machine with its NICs, as processes of ours.
 *
 * ```
 *   this process ──┬── QEMU                      has the terminal
 *                  ├── polynic serve, NIC 0 ──── socket 0, where QEMU listens; or the NIC, and QEMU begins when it does
 *                  └── polynic serve, NIC 1 ──── socket 1
 * ```
 * A backend that dies is started again, and the guest goes on with it; one that dies at once never will live, and ends the machine. To a whole device QEMU
 * connects once: one that dies is missed, no more.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { appears } from './appears.js';
import { VmError } from './errors.js';

/** A backend that ends sooner has something wrong with it that will not pass. */
const LIVED_MS = 2000;

export interface Processes {
  /** QEMU's words, itself first. */
  readonly qemu: readonly string[];
  /** For each NIC the words behind `polynic`. */
  readonly backends: readonly (readonly string[])[];
  /** Where backends listen: QEMU connects once, so they have to be there first. */
  readonly sockets: readonly string[];
  /** The program that `polynic` is. */
  readonly polynic: string;
  readonly log: (line: string) => void;
}

/** Runs them until QEMU ends, or `signal` aborts. Rejects with VmError: VM_QEMU (it can't be run, or fails), VM_ENDED (a backend fails). */
export async function runVm(processes: Processes, signal: AbortSignal): Promise<void> {
  const { backends, sockets, polynic, log } = processes;
  let failure: VmError | null = null;
  let over = false;
  const running = new Set<Promise<void>>();
  const children = new Set<ChildProcess>();

  const ending = new AbortController();
  const end = (): void => ending.abort();
  const serve = (nic: number): void => {
    const begun = performance.now();
    // Its standard input is how it knows that we live; it reports to us, and we have no use for that.
    const child = spawn(process.execPath, [polynic, ...backends[nic]!, '--child-of', String(process.pid)], {
      stdio: ['pipe', 'ignore', 'inherit'],
    });
    children.add(child);
    const ended = new Promise<void>(resolve => {
      child.once('close', (code, killer) => {
        children.delete(child);
        resolve();
        if (over) return;
        const how = killer ?? `exit code ${code}`;
        if (performance.now() - begun < LIVED_MS) {
          failure = new VmError('VM_ENDED', `the backend of NIC ${nic} ended at once: ${how}`);
          end();
        } else if (sockets.length > 0) {
          log(
            `the device of NIC ${nic} ended (${how}): QEMU does not connect to another, so the guest's card is dead`,
          );
        } else {
          log(`the backend of NIC ${nic} ended (${how}): starting another`);
          serve(nic);
        }
      });
    });
    running.add(ended);
    void ended.then(() => running.delete(ended));
  };
  for (const nic of backends.keys()) serve(nic);
  signal.addEventListener('abort', end, { once: true });

  await Promise.all(sockets.map(path => appears(path, ending.signal)));
  if (!ending.signal.aborted) failure = (await runQemu(processes.qemu, ending.signal)) ?? failure;
  over = true;
  signal.removeEventListener('abort', end);
  for (const child of children) child.kill('SIGTERM');
  await Promise.all(running);
  if (failure) throw failure;
}

/** Runs QEMU until it ends, or is told to. Returns what went wrong. */
function runQemu(qemu: readonly string[], signal: AbortSignal): Promise<VmError | null> {
  const [path, ...words] = qemu as [string, ...string[]];
  const machine = spawn(path, words, { stdio: 'inherit' });
  signal.addEventListener('abort', () => void machine.kill('SIGTERM'), { once: true });
  return new Promise(resolve => {
    machine.once('error', error => resolve(new VmError('VM_QEMU', `${path}: ${error.message}`)));
    machine.once('close', (code, killer) => {
      const fine = code === 0 || signal.aborted;
      resolve(fine ? null : new VmError('VM_QEMU', `QEMU ended: ${killer ?? `exit code ${code}`}`));
    });
  });
}
