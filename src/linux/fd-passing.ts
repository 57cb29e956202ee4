/**
 * One message with file descriptors on a Unix socket: sendmsg and recvmsg with SCM_RIGHTS.
 *
 *     struct msghdr (56 bytes)              control
 *      0 name, 8 name length                 0 u64 length of this block, header included
 *     16 → iovec {u64 base, u64 length}      8 i32 level (SOL_SOCKET)
 *     24 number of iovecs                   12 i32 type (SCM_RIGHTS)
 *     32 → control ───────────────────────► 16 i32 descriptors …, blocks padded to 8
 *     40 control length, 48 flags
 *
 * Layouts: <sys/socket.h>, 64-bit little-endian; musl's differ only in padding that is zero. One header per thread,
 * filled anew for each call.
 *
 * What a peer may do: send up to 253 descriptors in a message. Up to MAX_FDS are accepted; of some more, the surplus is
 * closed and counted; of many more, or when our descriptor table is full, the kernel cuts the list short, and
 * then all that arrived are closed, since nobody can tell which are missing.
 */
import { addressOf, close, recvmsg, sendmsg } from './libc.js';

/** Descriptors accepted, and sent, per message. */
export const MAX_FDS = 16;
const CONTROL_FDS = 64;
const CONTROL_HEADER = 16;
const CONTROL_SIZE = CONTROL_HEADER + 4 * CONTROL_FDS;

const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;
const MSG_CTRUNC = 0x08;
const MSG_DONTWAIT = 0x40;
const MSG_NOSIGNAL = 0x4000;
const MSG_CMSG_CLOEXEC = 0x40000000;

const HEADER = { iovec: 16, iovecs: 24, control: 32, controlLength: 40, flags: 48, size: 56 };

// The views below share its buffer and keep it alive.
const memory = new Uint8Array(HEADER.size + 16 + CONTROL_SIZE);
const header = new DataView(memory.buffer, 0, HEADER.size);
const iovec = new DataView(memory.buffer, HEADER.size, 16);
const control = new DataView(memory.buffer, HEADER.size + 16, CONTROL_SIZE);
const headerAddress = addressOf(memory);
setU64(header, HEADER.iovec, headerAddress + HEADER.size);
setU64(header, HEADER.iovecs, 1);

/** Sends without waiting. Returns the bytes taken, or `-errno`. The descriptors travel with the first byte. */
export function sendWithFds(fd: number, bytes: Uint8Array, fds: readonly number[]): number {
  pointTo(bytes);
  if (fds.length === 0) setControl(0);
  else {
    setControl(CONTROL_HEADER + Math.ceil(fds.length / 2) * 8);
    setU64(control, 0, CONTROL_HEADER + fds.length * 4);
    control.setInt32(8, SOL_SOCKET, true);
    control.setInt32(12, SCM_RIGHTS, true);
    for (const [i, passed] of fds.entries()) control.setInt32(CONTROL_HEADER + i * 4, passed, true);
  }
  return sendmsg(fd, headerAddress, MSG_DONTWAIT | MSG_NOSIGNAL);
}

export interface ReceivedWithFds {
  /** Bytes received, 0 at the peer's end, or `-errno`. */
  result: number;
  /** Open descriptors that the caller must take over, at most MAX_FDS. */
  fds: number[];
  /** The kernel cut the control data short; `fds` is empty. */
  truncatedControl: boolean;
  /** Descriptors beyond MAX_FDS, closed. */
  surplusFds: number;
}

/** Receives without waiting into `buffer`. */
export function receiveWithFds(fd: number, buffer: Uint8Array): ReceivedWithFds {
  pointTo(buffer);
  setControl(CONTROL_SIZE);
  const result = recvmsg(fd, headerAddress, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (result < 0) return { result, fds: [], truncatedControl: false, surplusFds: 0 };
  const arrived = readRights(header.getUint32(HEADER.controlLength, true));
  const truncatedControl = (header.getInt32(HEADER.flags, true) & MSG_CTRUNC) !== 0;
  const surplus = arrived.splice(truncatedControl ? 0 : MAX_FDS);
  for (const unwanted of surplus) close(unwanted);
  return { result, fds: arrived, truncatedControl, surplusFds: truncatedControl ? 0 : surplus.length };
}

/** All descriptors in the first `length` bytes of control data. */
function readRights(length: number): number[] {
  const fds: number[] = [];
  for (let at = 0; at + CONTROL_HEADER <= length; ) {
    const blockLength = control.getUint32(at, true);
    if (blockLength < CONTROL_HEADER) break;
    const isRights =
      control.getInt32(at + 8, true) === SOL_SOCKET && control.getInt32(at + 12, true) === SCM_RIGHTS;
    const end = Math.min(at + blockLength, length);
    for (let f = at + CONTROL_HEADER; isRights && f + 4 <= end; f += 4) fds.push(control.getInt32(f, true));
    at += Math.ceil(blockLength / 8) * 8;
  }
  return fds;
}

function pointTo(bytes: Uint8Array): void {
  setU64(iovec, 0, addressOf(bytes));
  setU64(iovec, 8, bytes.byteLength);
}

function setControl(length: number): void {
  setU64(header, HEADER.control, length === 0 ? 0 : headerAddress + HEADER.size + 16);
  setU64(header, HEADER.controlLength, length);
  header.setInt32(HEADER.flags, 0, true);
}

function setU64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value >>> 0, true);
  view.setUint32(offset + 4, Math.floor(value / 0x1_0000_0000), true);
}
