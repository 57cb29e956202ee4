/**
 * What a device's dump registers show: its status, and every queue with the head of its context, the part that all ring formats share. The
 * device is a VMM's: what the ring itself looks like only the backend knows.
 */
import { readSync } from 'node:fs';
import * as L from '../../../datapath/layout.js';
import type { GuestRam } from '../../guest/guest-ram.js';
import { dumpText, statusLine } from '../../pci/bpfhv/dump.js';

export interface DumpedDevice {
  readonly ram: GuestRam;
  /** STATUS as the driver reads it. */
  readonly status: number;
  /** Feature bits. */
  readonly features: bigint;
  /** Guest physical addresses, receive queues first; 0 = none. */
  readonly contexts: readonly bigint[];
  /** Descriptors of each queue. */
  readonly bufs: number;
}

/** Text with its NUL. */
export function deviceDump({ ram, status, features, contexts, bufs }: DumpedDevice): Buffer<ArrayBuffer> {
  const queues = contexts.map((gpa, queue) => {
    const direction = queue < contexts.length / 2 ? 'rx' : 'tx';
    const context = gpa === 0n ? 'none' : `0x${gpa.toString(16)}${contextHead(ram, gpa)}`;
    return `queue ${queue} ${direction}: ${bufs} descriptors, context ${context}`;
  });
  return dumpText([statusLine(status, features), ...queues]);
}

/** What the last programs to run were given, and said. Nothing for an address that is not in the guest's memory. */
function contextHead(ram: GuestRam, gpa: bigint): string {
  const offset = gpa - ram.guestPhysicalAddress;
  if (offset < 0n || offset + BigInt(L.CTX_BUFS) > BigInt(ram.size)) return '';
  const head = Buffer.alloc(L.CTX_BUFS);
  readSync(ram.fd.fd, head, 0, head.length, Number(offset));
  const fields = [
    ['num_bufs', L.CTX_NUM_BUFS],
    ['iflags', L.CTX_IFLAGS],
    ['oflags', L.CTX_OFLAGS],
    ['min_completed_bufs', L.CTX_MIN_COMPLETED_BUFS],
  ] as const;
  return fields.map(([name, at]) => `, ${name} ${head.readUInt32LE(at)}`).join('');
}
