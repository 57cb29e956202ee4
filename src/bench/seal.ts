/**
 * Sealing and opening by themselves, microseconds per packet.
 *
 *   seal/LENGTH/seal   seal/LENGTH/open      LENGTH: bytes of the plain frame; 1486 are 1514 when they are sealed
 */
import { createSecretKey, randomBytes } from 'node:crypto';
import { RX_BUFFER_SIZE } from '../guest/bpfhv/registers.js';
import { Sealer } from '../guest/bpfhv/seal.js';
import { BenchError } from './errors.js';
import { datagramHeaders } from './kernel.js';
import { type BenchResult, median, result } from './result.js';

export const SEAL_LENGTHS = [60, 1486];
const PACKETS = 64;
const STRIDE = 2048;
const WARM_UP = 50;
const ROUNDS = 50;

export function measureSealing(length: number): BenchResult[] {
  const key = createSecretKey(randomBytes(32));
  const [sender, receiver] = [new Sealer(key), new Sealer(key)];
  const frame = datagramHeaders(length);
  const bytes = new Uint8Array(PACKETS * STRIDE);
  const lengths = new Uint32Array(PACKETS);
  const times = { seal: [] as number[], open: [] as number[] };
  for (let round = -WARM_UP; round < ROUNDS; round++) {
    for (let i = 0; i < PACKETS; i++) bytes.set(frame, i * STRIDE);
    const start = performance.now();
    for (let i = 0; i < PACKETS; i++) lengths[i] = sender.seal(bytes, i * STRIDE, length, RX_BUFFER_SIZE);
    const sealed = performance.now();
    for (let i = 0; i < PACKETS; i++) lengths[i] = receiver.open(bytes, i * STRIDE, lengths[i]!);
    const opened = performance.now();
    if (lengths.some(plain => plain !== length)) throw new BenchError('a sealed packet did not open');
    if (round < 0) continue;
    times.seal.push(((sealed - start) * 1e3) / PACKETS);
    times.open.push(((opened - sealed) * 1e3) / PACKETS);
  }
  return (['seal', 'open'] as const).map(what => result(`seal/${length}/${what}`, 'us', median(times[what])));
}
