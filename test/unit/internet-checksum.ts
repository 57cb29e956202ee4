/** The Internet checksum of RFC 1071, as plainly as can be: the complement of the sum of big-endian words, with zeros behind an odd end. */
export function internetChecksum(bytes: Uint8Array, first = 0): number {
  let sum = first;
  for (const [i, byte] of bytes.entries()) sum += i % 2 === 0 ? byte * 256 : byte;
  while (sum > 0xffff) sum = (sum % 0x10000) + Math.floor(sum / 0x10000);
  return 0xffff - sum;
}
