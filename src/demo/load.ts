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
/** Bytes a second each way. */
const TCP_PACE = 25_000_000;

/** Fills the flows' part of the report. Throws as `Run.phase` does. */
export async function underLoad(
  { run, network, options, ends }: Stage,
  upgrades: Upgrades,
  forMs: number,
): Promise<void> {
  const { report, display } = options;
  const [outward, homeward, datagrams] = ends as [TrafficEnds, TrafficEnds, TrafficEnds];
  for (const { shared } of ends) shared.reset();
  const received = ({ shared }: TrafficEnds) => shared.amounts[RECEIVED]!;
  const bytes = meter(() => received(outward) + received(homeward));
  const packets = meter(() => received(datagrams));
  const dropped = network.dropped();
  const kernel = { guest: network.watchTcp('guest'), host: network.watchTcp('host') };
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
            tcpFlow(outward, network, 'guest_to_host', forMs, TCP_PACE),
            tcpFlow(homeward, network, 'host_to_guest', forMs, TCP_PACE),
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
  const [there, back, numbered] = result;
  reportTcp(report, 'guest_to_host', there, kernel.host());
  reportTcp(report, 'host_to_guest', back, kernel.guest());
  reportUdp(report, numbered, network.dropped() - dropped);
  for (const [way, tcp] of [
    ['guest_to_host', there],
    ['host_to_guest', back],
  ] as const) {
    const spurious = report.tcp_spurious[way]!;
    const again = `${tcp[1].retransmissions} sent again${spurious > 0 ? `, ${spurious} for nothing` : ''}`;
    display.row(`  ${TITLES[way]}`, `${tcpRate(tcp)}, ${again}`);
  }
  display.row(`  ${TITLES.udp}`, udpLosses(numbered));
}
