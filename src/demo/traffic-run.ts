/** The demo proper: real traffic between the kernels' sockets in two network namespaces. */
import { duration, gbits, thousands } from './display.js';
import type { Network } from './network.js';
import { addLeaks, rounded } from './report.js';
import { meter, Run, type RunOptions } from './run.js';
import { TrafficEnds } from './traffic/ends.js';
import { RECEIVED } from './traffic/shared.js';

const TCP_PORT = 5001;
const UDP_PORT = 5002;

/** Shares of the time that was asked for. */
const PING_SHARE = 0.1;
const TCP_SHARE = 0.3;
const UDP_SHARE = 0.3;

/** Runs all phases and fills the report. Throws DemoError when one fails, the signal's reason when that aborts; nothing is left either way. */
export async function runTraffic(network: Network, options: RunOptions): Promise<void> {
  const run = new Run(options, { netdev: network.guest.port, port: network.host.port });
  const traffic = new Traffic(run, network, options);
  let failure: unknown = null;
  try {
    await network.bringUp(run.signal);
    await traffic.start();
    await traffic.ping();
    await traffic.tcp('guest_to_host');
    await traffic.tcp('host_to_guest');
    await traffic.udp();
  } catch (error) {
    failure = error;
  }
  await traffic.close();
  await run.close(failure);
}

class Traffic {
  readonly #run: Run;
  readonly #network: Network;
  readonly #options: RunOptions;
  readonly #ends: TrafficEnds;

  constructor(run: Run, network: Network, options: RunOptions) {
    this.#run = run;
    this.#network = network;
    this.#options = options;
    this.#ends = new TrafficEnds(network);
  }

  start(): Promise<void> {
    return this.#ends.start();
  }

  async ping(): Promise<void> {
    const { guest, host } = this.#network;
    const { report } = this.#options;
    const forMs = this.#ms(PING_SHARE);
    this.#ends.shared.reset();
    const { result } = await this.#run.phase({
      title: 'ping',
      key: 'ping',
      rate: () => `${this.#amount(RECEIVED)} answered`,
      work: () => this.#ends.of(guest).work({ op: 'ping', to: host.ip, forMs }).result,
      words: ({ rtt_us }) =>
        rtt_us ? `p50 ${duration(rtt_us.p50)}, p99 ${duration(rtt_us.p99)}` : 'no answer',
    });
    report.ping = result;
    const { sent, received } = result;
    if (received < sent || received === 0) report.failures.push(`ping: ${received} of ${sent} answered`);
  }

  async tcp(direction: 'guest_to_host' | 'host_to_guest'): Promise<void> {
    const { guest, host } = this.#network;
    const { report } = this.#options;
    const [from, to] = direction === 'guest_to_host' ? [guest, host] : [host, guest];
    const title = `TCP ${from.name} to ${to.name}`;
    const at = { ip: to.ip, port: TCP_PORT };
    this.#ends.shared.reset();
    const live = meter(() => this.#amount(RECEIVED));
    const { result } = await this.#run.phase({
      title,
      key: `tcp_${direction}`,
      rate: () => gbits(live()),
      work: () =>
        this.#ends.flow(to, { op: 'tcpReceive', at }, from, {
          op: 'tcpSend',
          to: at,
          forMs: this.#ms(TCP_SHARE),
        }),
      words: ([{ bytes, seconds }]) => gbits(bytes / seconds),
    });
    const [{ bytes, seconds, corruptAt }, sent] = result;
    report.tcp_gbps[direction] = rounded((bytes * 8) / seconds / 1e9, 3);
    if (corruptAt !== null) report.failures.push(`${title}: corrupt after ${corruptAt} bytes`);
    if (bytes !== sent.bytes) report.failures.push(`${title}: ${bytes} of ${sent.bytes} bytes arrived`);
  }

  async udp(): Promise<void> {
    const { guest, host } = this.#network;
    const { report } = this.#options;
    const at = { ip: host.ip, port: UDP_PORT };
    this.#ends.shared.reset();
    const live = meter(() => this.#amount(RECEIVED));
    const { result } = await this.#run.phase({
      title: 'UDP guest to host',
      key: 'udp',
      rate: () => `${thousands(live())} datagrams/s`,
      work: () =>
        this.#ends.flow(host, { op: 'udpReceive', at }, guest, {
          op: 'udpSend',
          to: at,
          forMs: this.#ms(UDP_SHARE),
        }),
      words: ([{ received, reordered }, { sent }]) => `${sent - received} lost, ${reordered} reordered`,
    });
    const [{ received, reordered, foreign }, { sent, seconds }] = result;
    const lost = sent - received;
    report.udp = { sent, received, lost, reordered, pps: Math.round(received / seconds) };
    if (lost > 0) report.failures.push(`UDP: ${lost} of ${sent} datagrams lost`);
    if (reordered > 0) report.failures.push(`UDP: ${reordered} of ${sent} datagrams reordered`);
    if (foreign > 0) report.failures.push(`UDP: ${foreign} datagrams corrupt or doubled`);
    if (received === 0) report.failures.push('UDP: nothing arrived');
  }

  /** Lets both ends finish, and go. */
  async close(): Promise<void> {
    const { report } = this.#options;
    const fds = await this.#ends.close();
    if (fds !== null) report.leaks = addLeaks(report.leaks, { fds, mappings: 0, buffers: 0 });
  }

  #ms(share: number): number {
    return this.#options.seconds * share * 1000;
  }

  #amount(which: number): number {
    return this.#ends.shared.amounts[which]!;
  }
}
