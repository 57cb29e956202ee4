/** How long and how much: every soak test has a full size, and a machine with less time may say so. */

/** POLYNIC_SOAK_SECONDS: tests that repeat something stop early after so long. Default: 10 minutes each. */
export const SOAK_SECONDS = positive('POLYNIC_SOAK_SECONDS', 600);
/** POLYNIC_SOAK_PACKETS: datagrams each way. */
export const SOAK_PACKETS = positive('POLYNIC_SOAK_PACKETS', 1_000_000);
/** POLYNIC_SOAK_BYTES: bytes of a TCP stream. */
export const SOAK_BYTES = positive('POLYNIC_SOAK_BYTES', 1_000_000_000);
/** POLYNIC_SOAK_TIMES: restarts, kills, changes of an interface. */
export const SOAK_TIMES = positive('POLYNIC_SOAK_TIMES', 100);

function positive(name: string, full: number): number {
  const value = Number(process.env[name] ?? full);
  if (!(Number.isSafeInteger(value) && value > 0)) throw new Error(`${name} must be a whole number above 0`);
  return value;
}
