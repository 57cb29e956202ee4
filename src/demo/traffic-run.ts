/**
 * The demo proper: real traffic between the kernels' sockets in two network namespaces. First ping, then either one flow after the other, or
 * all of them at once, while the NIC's contract changes.
 */
import { duration, gbits, thousands } from './display.js';
import { reportTcp, reportUdp, TITLES, tcpFlow, tcpRate, udpFlow, udpLosses } from './flows.js';
import { underLoad } from './load.js';
import type { Network } from './network.js';
import { addLeaks, type Direction } from './report.js';
import { meter, Run, type RunOptions } from './run.js';
import { TrafficEnds } from './traffic/ends.js';
import { RECEIVED } from './traffic/shared.js';

/** Shares of the time that was asked for. */
const PING_SHARE = 0.1;
const TCP_SHARE = 0.3;
const UDP_SHARE = 0.3;
const LOAD_SHARE = 0.9;
/** Flows at once while the contract changes. */
const LOAD_FLOWS = 3;

/** What a phase works with. */
export interface Stage {
  readonly run: Run;
  readonly network: Network;
  readonly options: RunOptions;
  /** One for each flow that runs at a time. */
  readonly ends: readonly TrafficEnds[];
}

/** Runs all phases and fills the report. Throws DemoError when one fails, the signal's reason when that aborts; nothing is left either way. */
export async function runTraffic(network: Network, options: RunOptions): Promise<void> {
  const { seconds, upgrades } = options;
  const run = new Run(options, { netdev: network.guest.port, port: network.host.port });
  const ends = Array.from({ length: upgrades ? LOAD_FLOWS : 1 }, () => new TrafficEnds(network));
  const stage: Stage = { run, network, options, ends };
  const ms = (share: number) => seconds * share * 1000;
  let failure: unknown = null;
  try {
    await network.bringUp(run.signal);
    for (const pair of ends) await pair.start();
    await ping(stage, ms(PING_SHARE));
    if (upgrades) {
      await underLoad(stage, upgrades, ms(LOAD_SHARE));
    } else {
      await tcp(stage, 'guest_to_host', ms(TCP_SHARE));
      await tcp(stage, 'host_to_guest', ms(TCP_SHARE));
      await udp(stage, ms(UDP_SHARE));
    }
  } catch (error) {
    failure = error;
  }
  const left = await Promise.all(ends.map(pair => pair.close()));
  for (const fds of left) {
    if (fds !== null) options.report.leaks = addLeaks(options.report.leaks, { fds, mappings: 0, buffers: 0 });
  }
  await run.close(failure);
}

async function ping({ run, network, options, ends }: Stage, forMs: number): Promise<void> {
  const { guest, host } = network;
  const { report } = options;
  const [flow] = ends as [TrafficEnds];
  flow.shared.reset();
  const { result } = await run.phase({
    title: 'ping',
    key: 'ping',
    rate: () => `${flow.shared.amounts[RECEIVED]} answered`,
    work: () => flow.of(guest).work({ op: 'ping', to: host.ip, forMs }).result,
    words: ({ rtt_us }) =>
      rtt_us ? `p50 ${duration(rtt_us.p50)}, p99 ${duration(rtt_us.p99)}` : 'no answer',
  });
  report.ping = result;
  const { sent, received } = result;
  if (received < sent || received === 0) report.failures.push(`ping: ${received} of ${sent} answered`);
}

async function tcp({ run, network, options, ends }: Stage, way: Direction, forMs: number): Promise<void> {
  const [flow] = ends as [TrafficEnds];
  flow.shared.reset();
  const receiver = way === 'guest_to_host' ? 'host' : 'guest';
  const kernel = network.watchTcp(receiver);
  const live = meter(() => flow.shared.amounts[RECEIVED]!);
  const { result } = await run.phase({
    title: TITLES[way],
    key: `tcp_${way}`,
    rate: () => gbits(live()),
    work: () => tcpFlow(flow, network, way, forMs),
    words: tcpRate,
  });
  reportTcp(options.report, way, result, kernel());
}

async function udp({ run, network, options, ends }: Stage, forMs: number): Promise<void> {
  const [flow] = ends as [TrafficEnds];
  flow.shared.reset();
  const dropped = network.dropped();
  const live = meter(() => flow.shared.amounts[RECEIVED]!);
  const { result } = await run.phase({
    title: TITLES.udp,
    key: 'udp',
    rate: () => `${thousands(live())} datagrams/s`,
    work: () => udpFlow(flow, network, forMs),
    words: udpLosses,
  });
  reportUdp(options.report, result, network.dropped() - dropped);
}
