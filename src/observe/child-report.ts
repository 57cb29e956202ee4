/** What `serve` and `guest` tell a program that started them: in lines of JSON, see src/cli/parent.ts. */
import type { Blackout } from '../guest/bpfhv/commands.js';
import type { Direction } from '../nic/control.js';
import type { QueueStats } from '../nic/queue.js';
import type { FlowCounters } from '../port/flow.js';
import type { PortCounters } from '../port/port.js';

/** The answer to an empty line. */
export interface ChildCounters {
  readonly queues: readonly ({ readonly direction: Direction } & QueueStats)[];
  /** Of a source or sink; null: the port is another. */
  readonly flow: FlowCounters | null;
  readonly port: PortCounters;
  /** Of a guest: changes of contract under a running interface, and how long packets had to wait at the last ones of them. */
  readonly upgrades?: number;
  readonly blackouts?: readonly Blackout[];
}

/** What a process holds when it should hold nothing. */
export interface Leaks {
  readonly fds: number;
  readonly mappings: number;
  readonly buffers: number;
}
