/**
 * The commands of the control queue (virtio 1.2, 5.1.6.5), as a table: which feature each belongs to, and what it does.
 *
 * Every frame is delivered, whomever it is for, so a guest's wish to get only some of them needs nothing done.
 */

import { PCI_NET_FEATURE as P } from '../../guest/pci/virtio-numbers.js';
import { NET_FEATURE } from '../../nic/virtio-offers.js';

/** What commands change. */
export interface CommandTarget {
  /** What was agreed on. */
  readonly features: bigint;
  readonly maxPairs: number;
  setMac(mac: Uint8Array): void;
  /** The guest has told the network where it is. */
  announced(): void;
  /** Has the first `pairs` queue pairs move frames, and no others. */
  setPairs(pairs: number): Promise<void>;
}

interface Command {
  readonly name: string;
  readonly number: readonly [kind: number, command: number];
  readonly feature: bigint;
  /** Whether these data can be the command's. */
  fits(data: DataView, target: CommandTarget): boolean;
  run(target: CommandTarget, data: DataView): void | Promise<void>;
}

const FLAG = { fits: (data: DataView) => data.byteLength === 1, run: () => {} };

const COMMANDS: readonly Command[] = [
  { name: 'RX_PROMISC', number: [0, 0], feature: P.CTRL_RX, ...FLAG },
  { name: 'RX_ALLMULTI', number: [0, 1], feature: P.CTRL_RX, ...FLAG },
  { name: 'MAC_TABLE_SET', number: [1, 0], feature: P.CTRL_RX, fits: isMacTable, run: () => {} },
  {
    ...{ name: 'MAC_ADDR_SET', number: [1, 1], feature: P.CTRL_MAC_ADDR },
    fits: data => data.byteLength === 6,
    run: (target, data) => target.setMac(new Uint8Array(data.buffer, data.byteOffset, 6)),
  },
  {
    ...{ name: 'ANNOUNCE_ACK', number: [3, 0], feature: NET_FEATURE.GUEST_ANNOUNCE },
    fits: data => data.byteLength === 0,
    run: target => target.announced(),
  },
  {
    ...{ name: 'MQ_VQ_PAIRS_SET', number: [4, 0], feature: NET_FEATURE.MQ },
    fits: (data, { maxPairs }) => data.byteLength === 2 && pairsOf(data) >= 1 && pairsOf(data) <= maxPairs,
    run: (target, data) => target.setPairs(pairsOf(data)),
  },
];

/** Carries out a command of two bytes at least. Resolves to whether there is such a one, it was agreed on, and its data make sense. Rejects as its target does. */
export async function carryOut(target: CommandTarget, bytes: Uint8Array): Promise<boolean> {
  const command = COMMANDS.find(({ number }) => number[0] === bytes[0] && number[1] === bytes[1]);
  if (!command || (target.features & command.feature) === 0n) return false;
  const data = new DataView(bytes.buffer, bytes.byteOffset + 2, bytes.length - 2);
  if (!command.fits(data, target)) return false;
  await command.run(target, data);
  return true;
}

function pairsOf(data: DataView): number {
  return data.getUint16(0, true);
}

/** Two tables, of unicast and multicast addresses: a count, u32, and 6 octets for each. */
function isMacTable(data: DataView): boolean {
  let at = 0;
  for (let table = 0; table < 2; table++) {
    if (at + 4 > data.byteLength) return false;
    at += 4 + 6 * data.getUint32(at, true);
  }
  return at === data.byteLength;
}
