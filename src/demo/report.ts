/** What the demo finds out: the object that `--json` prints, and what of it is a failure. */
import type { Leaks } from '../observe/child-report.js';
import type { Crossing } from './nic-pair.js';
import type { PingResult } from './traffic/ping.js';
import type { UpgradeReport } from './upgrades.js';

export type Direction = 'guest_to_host' | 'host_to_guest';

export interface DemoReport {
  readonly device: string;
  readonly spin: boolean;
  /** `tap`: real traffic between two network namespaces. `ports`: numbered frames between a source and a sink. */
  link: 'tap' | 'ports';
  /** Why it is not `tap`. */
  note: string | null;
  ping: PingResult | null;
  /** Gbit/s of payload. */
  tcp_gbps: Record<Direction, number | null>;
  /** Segments that were sent again, and those of them that had arrived all the same: the sender had waited too long for a word of it. */
  tcp_retransmissions: Record<Direction, number | null>;
  tcp_spurious: Record<Direction, number | null>;
  /** Frames of whatever kind that the kernel dropped meanwhile, for want of room in an interface's queue or in the receiver's socket. */
  tcp_dropped_by_kernel: Record<Direction, number | null>;
  udp: {
    sent: number;
    received: number;
    lost: number;
    /** Packets of whatever kind that the kernel dropped meanwhile, for want of room in an interface's queue or in the receiver's socket. */
    dropped_by_kernel: number;
    reordered: number;
    /** Datagrams a second that arrived. */
    pps: number;
  } | null;
  /** Numbered frames of 60 bytes, where the link is `ports`. */
  frames: Record<Direction, FrameFlow | null>;
  /** Per phase: what crossed the NIC, in both directions, and what that took. */
  signals: Record<string, { packets: number; kicks_per_packet: number; interrupts_per_packet: number }>;
  upgrades: UpgradeReport;
  /** What the processes still held after they had closed everything. Null: it did not come to that. */
  leaks: Leaks | null;
  /** One sentence each. */
  failures: string[];
}

export interface FrameFlow {
  readonly received: number;
  readonly out_of_order: number;
  /** Frames a second. */
  readonly pps: number;
}

export function emptyReport(device: string, spin: boolean): DemoReport {
  return {
    device,
    spin,
    link: 'tap',
    note: null,
    ping: null,
    tcp_gbps: { guest_to_host: null, host_to_guest: null },
    tcp_retransmissions: { guest_to_host: null, host_to_guest: null },
    tcp_spurious: { guest_to_host: null, host_to_guest: null },
    tcp_dropped_by_kernel: { guest_to_host: null, host_to_guest: null },
    udp: null,
    frames: { guest_to_host: null, host_to_guest: null },
    signals: {},
    upgrades: { count: 0, refused: 0, blackout_us: null },
    leaks: null,
    failures: [],
  };
}

export function signalsOf({ packets, kicksPerPacket, interruptsPerPacket }: Crossing) {
  return {
    packets,
    kicks_per_packet: rounded(kicksPerPacket, 4),
    interrupts_per_packet: rounded(interruptsPerPacket, 4),
  };
}

export function addLeaks(a: Leaks | null, b: Leaks): Leaks {
  return {
    fds: (a?.fds ?? 0) + b.fds,
    mappings: (a?.mappings ?? 0) + b.mappings,
    buffers: (a?.buffers ?? 0) + b.buffers,
  };
}

export function rounded(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}
