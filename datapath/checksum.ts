/**
 * The Internet checksum (RFC 1071), and numbers in network byte order.
 *
 * The sum of 16-bit words does not depend on their byte order, but for the order of the result's own two bytes: so words are added as they
 * lie in memory, eight at a time, and swapped once.
 *
 * ```
 *   16 bytes:  w0 w1 │ w2 w3 │ w4 w5 │ w6 w7      four lanes of 32 bits, one pair of words added to each
 * ```
 */

/** Sum of big-endian 16-bit words, folded; an odd end is filled up with 0. Of 256 KiB at most: a lane grows by up to 2 · 0xffff every 16 bytes. */
export function sumOf(at: usize, length: u32): u32 {
  let left = length;
  let lanes = i32x4.splat(0);
  while (left >= 16) {
    lanes = i32x4.add(lanes, i32x4.extadd_pairwise_i16x8_u(v128.load(at)));
    at += 16;
    left -= 16;
  }
  let sum =
    <u64>(<u32>i32x4.extract_lane(lanes, 0)) +
    <u64>(<u32>i32x4.extract_lane(lanes, 1)) +
    <u64>(<u32>i32x4.extract_lane(lanes, 2)) +
    <u64>(<u32>i32x4.extract_lane(lanes, 3));
  while (left >= 4) {
    sum += <u64>load<u32>(at);
    at += 4;
    left -= 4;
  }
  if (left >= 2) {
    sum += <u64>load<u16>(at);
    at += 2;
    left -= 2;
  }
  if (left != 0) sum += <u64>load<u8>(at);
  return <u32>bswap<u16>(<u16>fold(sum));
}

/** The sum with its carries added: at most 0xffff, and 0 only for 0. */
export function fold(sum: u64): u32 {
  while (sum > 0xffff) sum = (sum >> 16) + (sum & 0xffff);
  return <u32>sum;
}

/** A UDP checksum from a sum: 0 is not sent, since it would mean that there is none. */
export function udpChecksum(sum: u64): u32 {
  const folded = fold(sum);
  return folded == 0xffff ? 0xffff : folded ^ 0xffff;
}

export function get16(at: usize): u32 {
  return <u32>bswap<u16>(load<u16>(at));
}

export function put16(at: usize, value: u32): void {
  store<u16>(at, bswap<u16>(<u16>value));
}
