/** The key of a guest that seals its packets: out of a file that only its owner can read, into memory that only the crypto library reads. */
import { createSecretKey, type KeyObject } from 'node:crypto';
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { DriverError } from './transport.js';

const KEY_BYTES = 32;
/** Enough for a key in hexadecimal with white space around it; whatever is longer is none. */
const MAX_FILE = 128;
const OTHERS = 0o077;

/**
 * Reads 32 bytes, or 64 hexadecimal digits. Throws DriverError DRIVER_KEY_FILE: no such file, no regular file, somebody else's or readable by
 * others, or no key in it.
 */
export function readKeyFile(path: string): KeyObject {
  const content = Buffer.alloc(MAX_FILE);
  const key = Buffer.alloc(KEY_BYTES);
  try {
    const length = readPrivate(path, content);
    const text = content.toString('latin1', 0, length).trim();
    if (length === KEY_BYTES) content.copy(key);
    else if (/^[0-9a-f]{64}$/i.test(text)) key.write(text, 'hex');
    else throw refusal(path, 'holds no key: it takes 32 bytes, or 64 hexadecimal digits');
    return createSecretKey(key);
  } finally {
    content.fill(0);
    key.fill(0);
  }
}

/** Reads the beginning of a file that is its user's alone. Returns the bytes read. */
function readPrivate(path: string, to: Buffer): number {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    throw refusal(path, `can't be opened: ${(error as NodeJS.ErrnoException).code}`);
  }
  try {
    const { mode, uid } = fstatSync(fd);
    if ((mode & constants.S_IFMT) !== constants.S_IFREG) throw refusal(path, 'is no regular file');
    const ours = process.geteuid!();
    if (uid !== ours && uid !== 0) throw refusal(path, `belongs to user ${uid}, not to us`);
    if ((mode & OTHERS) !== 0) {
      const octal = (mode & 0o777).toString(8).padStart(3, '0');
      throw refusal(path, `is open to others (mode ${octal}): chmod 600 it`);
    }
    return readSync(fd, to, 0, to.length, 0);
  } finally {
    closeSync(fd);
  }
}

function refusal(path: string, problem: string): DriverError {
  return new DriverError('DRIVER_KEY_FILE', `key file ${path} ${problem}`);
}
