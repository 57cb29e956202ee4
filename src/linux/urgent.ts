/**
 * A moment in which the calling thread must not wait for a processor: it runs before all threads that share the time evenly. For a few
 * milliseconds of waiting for others and answering them, never for work, since nobody else gets that processor meanwhile: a worker that moves
 * packets all the time would keep even the thread away that is to tell it when the moment is over.
 */
import { schedSetscheduler } from './libc.js';

const SCHED_OTHER = 0;
const SCHED_FIFO = 1;
/** Threads and processes that begin meanwhile are none of it. */
const SCHED_RESET_ON_FORK = 0x4000_0000;

/** struct sched_param: its one field is the priority. */
const LOWEST = Int32Array.of(1);
const NONE = Int32Array.of(0);

/** Begins; without the right to (CAP_SYS_NICE) nothing happens. */
export function beginUrgent(): void {
  schedSetscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, LOWEST);
}

/** Ends. */
export function endUrgent(): void {
  schedSetscheduler(0, SCHED_OTHER, NONE);
}
