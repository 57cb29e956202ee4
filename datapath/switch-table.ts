/**
 * The address table of a switch: which port an Ethernet address is behind.
 *
 * ```
 *   address ── hash, by a secret ──► set of 8 keys, one cache line        key   │ used │ port │ address │
 *                                                                        bit   56     48     0
 *   port ──► slots: where the keys of its addresses are, so many and no more
 * ```
 * Keys are read and changed as a whole (64-bit atomics), and none ever moves: a look-up takes no lock, and never misses what is there. A port that
 * learns more than its share loses the address that it has not used for the longest time; never does another port lose one. An address whose set
 * is full by chance is not learned, and nobody can choose a set.
 *
 * Two ports that learn an address at the same moment may both get a key. The first of the set counts; the other goes when its address moves.
 */
import * as L from './layout';

const ADDRESS: u64 = 0xffff_ffff_ffff;
const USED: u64 = 1 << 56;
const SET: usize = L.SWITCH_WAYS << 3;

/** What `learn` has done. */
export const KNOWN: u32 = 0; // nothing, or it could do nothing
export const LEARNED: u32 = 1;
export const MOVED: u32 = 2;

/** The port that the address is behind, or -1: it is not known, or was last used longer ago than its port allows. */
export function lookUp(table: usize, address: u64, seconds: u32): i32 {
  const at = find(setOf(table, address), address);
  if (at == 0) return -1;
  const port = portOf(atomic.load<u64>(at));
  const member = memberAt(table, port);
  if (member == 0) return -1; // it is leaving
  // Clocks of workers differ by a moment: less than no time may have passed.
  const unused = <i32>(seconds - load<u32>(seenAt(table, at)));
  return unused > load<i32>(member, L.MEMBER_AGE) ? -1 : <i32>port;
}

/** The port has sent a frame from this address, which is no group's. */
export function learn(table: usize, member: usize, address: u64, seconds: u32): u32 {
  const set = setOf(table, address);
  const mine = address | ((<u64>load<u32>(member, L.MEMBER_NUMBER)) << 48) | USED;
  const at = find(set, address);
  if (at != 0 && atomic.load<u64>(at) == mine) {
    const seen = seenAt(table, at);
    if (load<u32>(seen) != seconds) store<u32>(seen, seconds);
    return KNOWN;
  }
  // Another lane of this port is at it: the next frame will do.
  if (atomic.xchg<u32>(member, 1, L.MEMBER_LOCK) != 0) return KNOWN;
  const result = take(table, member, set, at, mine, seconds);
  atomic.store<u32>(member, 0, L.MEMBER_LOCK);
  return result;
}

/** Forgets all addresses of a port. */
export function forget(table: usize, port: u32): void {
  for (let at = table + L.SWITCH_KEYS; at < table + L.SWITCH_SEEN; at += 8) {
    const key = atomic.load<u64>(at);
    if (key != 0 && portOf(key) == port) atomic.cmpxchg<u64>(at, key, 0);
  }
}

/** How many addresses the port has at present, old ones included. */
export function addressesOf(member: usize): u32 {
  const share = load<u32>(member, L.MEMBER_SHARE);
  let n: u32 = 0;
  for (let i: u32 = 0; i < share; i++) {
    if (owned(member, <usize>load<u32>(slotAt(member, i))) != 0) n++;
  }
  return n;
}

/** The port of that number, 0 = there is none. */
export function memberAt(table: usize, port: u32): usize {
  return <usize>atomic.load<u32>(table + ((<usize>port) << 2), L.SWITCH_PORTS);
}

/** Has a key of the set say `mine`: the one at `at`, which is another port's, or else a free one, or one that this port has there already. */
function take(table: usize, member: usize, set: usize, at: usize, mine: u64, seconds: u32): u32 {
  const moves = at != 0;
  if (!moves) at = wayFor(member, set);
  if (at == 0) return KNOWN;
  const key = atomic.load<u64>(at);
  const slot = slotFor(table, member, at, seconds);
  const former = <usize>load<u32>(slot);
  store<u32>(seenAt(table, at), seconds);
  if (atomic.cmpxchg<u64>(at, key, mine) != key) return KNOWN; // somebody was faster
  store<u32>(slot, <u32>at);
  const evicted = former == at ? 0 : owned(member, former);
  if (evicted != 0) atomic.cmpxchg<u64>(former, evicted, 0);
  if (!moves) return LEARNED;
  for (let other = at + 8; other < set + SET; other += 8) atomic.cmpxchg<u64>(other, mine, 0);
  return MOVED;
}

/** A key of the set that the port may use; 0: all are others'. */
function wayFor(member: usize, set: usize): usize {
  let own: usize = 0;
  for (let at = set; at < set + SET; at += 8) {
    if (atomic.load<u64>(at) == 0) return at;
    if (owned(member, at) != 0) own = at;
  }
  return own;
}

/** The slot that is to point to `at`: the one that does so already, or one that is free, or the port's oldest. */
function slotFor(table: usize, member: usize, at: usize, seconds: u32): usize {
  const share = load<u32>(member, L.MEMBER_SHARE);
  let best: usize = 0;
  let longest: i64 = -1;
  for (let i: u32 = 0; i < share; i++) {
    const slot = slotAt(member, i);
    const key = <usize>load<u32>(slot);
    if (key == at) return slot;
    const unused =
      owned(member, key) == 0 ? i64.MAX_VALUE : <i64>max(<i32>(seconds - load<u32>(seenAt(table, key))), 0);
    if (unused <= longest) continue;
    longest = unused;
    best = slot;
  }
  return best;
}

/** The key at `at` if it is this port's, else 0. */
function owned(member: usize, at: usize): u64 {
  if (at == 0) return 0;
  const key = atomic.load<u64>(at);
  return key != 0 && portOf(key) == load<u32>(member, L.MEMBER_NUMBER) ? key : 0;
}

/** Where the address stands in its set, 0 = nowhere. */
function find(set: usize, address: u64): usize {
  for (let at = set; at < set + SET; at += 8) {
    const key = atomic.load<u64>(at);
    if ((key & ADDRESS) == address && key != 0) return at;
  }
  return 0;
}

/** Multiplication by an odd secret: the upper bits depend on all of the address. */
function setOf(table: usize, address: u64): usize {
  const hash = (address * load<u64>(table, L.SWITCH_SECRET)) >> 40;
  return table + L.SWITCH_KEYS + <usize>(hash & (L.SWITCH_SETS - 1)) * SET;
}

function portOf(key: u64): u32 {
  return <u32>(key >> 48) & 0xff;
}

function seenAt(table: usize, at: usize): usize {
  return table + L.SWITCH_SEEN + ((at - table - L.SWITCH_KEYS) >> 1);
}

function slotAt(member: usize, i: u32): usize {
  return member + L.MEMBER_SLOTS + ((<usize>i) << 2);
}
