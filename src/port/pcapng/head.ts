/** Creates capture files: the section header and the one interface, for a PcapWriter to append packets to. */
import { fstatSync } from 'node:fs';
import { check } from '../../linux/errors.js';
import { OwnedFd } from '../../linux/fd.js';
import { ftruncate, open, write } from '../../linux/libc.js';
import * as L from './layout.js';

const O_WRONLY = 0o1;
const O_CREAT = 0o100;
const O_NOCTTY = 0o400;
const O_APPEND = 0o2000;
const O_NONBLOCK = 0o4000;
const O_CLOEXEC = 0o2000000;
const OWNER_ONLY = 0o600;

const NANOSECONDS = 9;
const APPLICATION = 'polynic';
const ANY_LENGTH = 0xffff_ffff; // of a section: both halves of -1

/** What makes a file the same file under another name. */
export interface FileIdentity {
  readonly dev: bigint;
  readonly ino: bigint;
}

/** A file that can't be used for captures: not a regular one, or one that is in use. */
export class CaptureFileError extends Error {
  override readonly name = 'CaptureFileError';
  readonly code = 'CAPTURE_FILE';
}

/**
 * Creates a capture file, or empties the one that is there, and writes its head. Readable by its owner alone when it is new. The
 * descriptor appends. Throws LinuxError, or CaptureFileError for what is no regular file, or is the file `input`.
 * @param name of the interface, as readers will show it
 */
export function createCapture(path: string, name: string, input?: FileIdentity): OwnedFd {
  // Emptied only when it is known to be a file, and not the one that we are about to read. NONBLOCK: a pipe must not make us wait.
  const flags = O_WRONLY | O_CREAT | O_APPEND | O_NOCTTY | O_NONBLOCK | O_CLOEXEC;
  const file = new OwnedFd(check(open(path, flags, OWNER_ONLY), 'open', path), path);
  try {
    const status = fstatSync(file.fd, { bigint: true });
    if (!status.isFile()) throw new CaptureFileError(`${path} is no regular file`);
    if (status.dev === input?.dev && status.ino === input.ino)
      throw new CaptureFileError(`${path} is the file to read from`);
    check(ftruncate(file.fd, 0), 'ftruncate', path);
    const head = encodeHead(name);
    const written = check(write(file.fd, head, head.length), 'write', path);
    if (written < head.length) throw new CaptureFileError(`${path} has no room for the head of a capture`);
    return file;
  } catch (error) {
    file.close();
    throw error;
  }
}

/** Section header and interface description, in this machine's byte order. */
export function encodeHead(name: string): Uint8Array {
  const section = [...words(L.BYTE_ORDER_MAGIC), ...halves(1, 0), ...words(ANY_LENGTH, ANY_LENGTH)];
  const ethernet = [...halves(L.LINK_ETHERNET, 0), ...words(L.MAX_FRAME)];
  const interfaceOptions = [
    ...option(L.OPTION_INTERFACE_NAME, new TextEncoder().encode(name)),
    ...option(L.OPTION_RESOLUTION, [NANOSECONDS]),
  ];
  return Uint8Array.from([
    ...block(L.BLOCK_SECTION, [
      ...section,
      ...option(L.OPTION_APPLICATION, new TextEncoder().encode(APPLICATION)),
      ...end,
    ]),
    ...block(L.BLOCK_INTERFACE, [...ethernet, ...interfaceOptions, ...end]),
  ]);
}

const words = (...values: number[]): Uint8Array => new Uint8Array(Uint32Array.from(values).buffer);
const halves = (...values: number[]): Uint8Array => new Uint8Array(Uint16Array.from(values).buffer);
const end = words(L.OPTION_END);

function option(code: number, value: ArrayLike<number>): Uint8Array {
  const bytes = new Uint8Array(4 + L.padded(value.length));
  bytes.set(halves(code, value.length));
  bytes.set(value, 4);
  return bytes;
}

function block(type: number, body: readonly number[]): number[] {
  const length = words(body.length + L.BLOCK_MIN);
  return [...words(type), ...length, ...body, ...length];
}
