/** What a switch puts up with from one of its ports. */
export interface SwitchLimits {
  /** Addresses that can be behind a port. One more takes the place of the port's own oldest. */
  readonly addresses: number;
  /** Frames a second that a port may have flooded, in the long run; a long frame counts as one for every 1514 bytes. */
  readonly floodRate: number;
  /** … and at once. */
  readonly floodBurst: number;
  /** Bytes of a port's inboxes, shared out among its lanes, */
  readonly inboxBytes: number;
  /** but no fewer than this for each, rounded to a power of two. A frame of 64 KiB needs a little more than that. */
  readonly laneBytes: number;
}

export const SWITCH_LIMITS: SwitchLimits = {
  addresses: 64,
  floodRate: 20_000,
  floodBurst: 4_000,
  inboxBytes: 1 << 20,
  laneBytes: 1 << 18,
};
