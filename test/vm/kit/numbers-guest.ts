/**
 * The guest's end of numbered datagrams (numbers.ts): `node numbers-guest.js IP PORT BURST FILE` sends so many every 10 ms or so, whatever happens to
 * its network, takes what comes back, and when there is such a file, prints what came of them.
 */
import { createSocket } from 'node:dgram';
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Content, MAX_DATAGRAM } from '../../link/content.js';
import { BUFFER, Ledger, SEED, type Tally } from './ledger.js';

const TICK_MS = 10;
/** What is under way when it stops has so long to come. */
const LAST_MS = 1000;

/** What it prints. */
export interface GuestReport {
  readonly sent: number;
  readonly tally: Tally;
  readonly gaps: readonly (readonly [from: number, to: number])[];
}

const [ip, port, burst, stop] = process.argv.slice(2) as [string, string, string, string];
const content = new Content(SEED);
const ledger = new Ledger();
const socket = createSocket({ type: 'udp4', recvBufferSize: BUFFER });
socket.on('message', bytes => ledger.note(content.readDatagram(bytes)));
socket.on('error', () => {}); // no network for the moment

let sent = 0;
while (!existsSync(stop)) {
  // A guest that is slow sends fewer: its own socket must not be what loses them.
  for (let i = 0; i < Number(burst); i++, sent++) {
    const datagram = Buffer.alloc(MAX_DATAGRAM);
    socket.send(datagram, 0, content.writeDatagram(sent, datagram), Number(port), ip, () => {});
  }
  await sleep(TICK_MS);
}
await sleep(LAST_MS);
socket.close();
const { tally, gaps } = ledger;
console.log(JSON.stringify({ sent, tally, gaps } satisfies GuestReport));
