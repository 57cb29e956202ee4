/**
 * TCP in both directions and UDP by the clock, all at once, while the NIC's contract changes under them. Enough packets are on their way at any
 * time that one lost, doubled or held up for long would be seen: by its number, by a wrong byte, by a segment sent again.
 */
import { gbits, thousands } from './display.js';
import { reportTcp, reportUdp, TITLES, tcpFlow, tcpRate, udpFlow, udpLosses } from './flows.js';
import { meter } from './run.js';
import type { TrafficEnds } from './traffic/ends.js';
import { RECEIVED } from './traffic/shared.js';
import type { Stage } from './traffic-run.js';
import type { Upgrades } from './upgrades.js';

/** Datagrams a second. */
const UDP_PACE = 60_000;

/** Fills the flows' part of the report. Throws as `Run.phase` does. */
export async function underLoad(
  { run, network, options, ends }: Stage,
  upgrades: Upgrades,
  forMs: number,
): Promise<void> {
  const { report, display } = options;
  const [out, back, datagrams] = ends as [TrafficEnds, TrafficEnds, TrafficEnds];
  for (const { shared } of ends) shared.reset();
  const received = ({ shared }: TrafficEnds) => shared.amounts[RECEIVED]!;
  const bytes = meter(() => received(out) + received(back));
  const packets = meter(() => received(datagrams));
  const dropped = network.dropped();
  const failed = new AbortController();
  const { result } = await run.phase({
    title: 'upgrades under load',
    key: 'load',
    rate: () => `${upgrades.count} upgrades, ${thousands(packets())} datagrams/s, ${gbits(bytes())}`,
    work: async () => {
      const signal = AbortSignal.any([run.signal, failed.signal]);
      try {
        const [results] = await Promise.all([
          Promise.all([
            tcpFlow(out, network, 'guest_to_host', forMs),
            tcpFlow(back, network, 'host_to_guest', forMs),
            udpFlow(datagrams, network, forMs, UDP_PACE),
          ]),
          upgrades.run(run.pair, forMs, signal),
        ]);
        return results;
      } finally {
        failed.abort();
      }
    },
    words: () => `${upgrades.count} upgrades`,
  });
  const [there, here, numbered] = result;
  const again = (tcp: typeof there) => `${tcpRate(tcp)}, ${tcp[1].retransmissions} sent again`;
  display.row(`  ${TITLES.guest_to_host}`, again(there));
  display.row(`  ${TITLES.host_to_guest}`, again(here));
  display.row(`  ${TITLES.udp}`, udpLosses(numbered));
  reportTcp(report, 'guest_to_host', there);
  reportTcp(report, 'host_to_guest', here);
  reportUdp(report, numbered, network.dropped() - dropped);
}
