/** One end of the traffic: a thread that lives in one namespace while it works, and does one piece of work after the other. */
import { parentPort, workerData } from 'node:worker_threads';
import { openFds } from '../../linux/fd.js';
import { inNetns, openNetns } from '../../linux/netns.js';
import { type PingResult, type PingWork, ping } from './ping.js';
import { Shared } from './shared.js';
import {
  type TcpReceived,
  type TcpReceiveWork,
  type TcpSendWork,
  type TcpSent,
  tcpReceive,
  tcpSend,
} from './tcp.js';
import {
  type UdpReceived,
  type UdpReceiveWork,
  type UdpSendWork,
  type UdpSent,
  udpReceive,
  udpSend,
} from './udp.js';

export type Work = PingWork | TcpReceiveWork | TcpSendWork | UdpReceiveWork | UdpSendWork;

/** What each kind of work results in. */
export interface Results {
  ping: PingResult;
  tcpReceive: TcpReceived;
  tcpSend: TcpSent;
  udpReceive: UdpReceived;
  udpSend: UdpSent;
}

export interface WorkerStart {
  /** A path in /proc. */
  readonly netns: string;
  readonly shared: SharedArrayBuffer;
}

export type WorkerMessage =
  /** The worker has loaded, or its work is ready for the other end to begin. */
  | { readonly ready: true }
  | { readonly result: Results[keyof Results] }
  | { readonly error: string }
  /** The last message: descriptors still open. */
  | { readonly left: number };

const port = parentPort!;
const start = workerData as WorkerStart;
const shared = new Shared(start.shared);
const netns = openNetns(start.netns);

port.on('message', (message: Work | { op: 'end' }) => {
  if (message.op === 'end') {
    netns.close();
    say({ left: openFds().length });
    port.close();
    return;
  }
  try {
    say({ result: inNetns(netns, () => perform(message)) });
  } catch (error) {
    say({ error: (error as Error).message });
  }
});
say({ ready: true });

function perform(work: Work): Results[keyof Results] {
  const ready = () => say({ ready: true });
  switch (work.op) {
    case 'ping':
      return ping(work, shared);
    case 'tcpReceive':
      return tcpReceive(work, shared, ready);
    case 'tcpSend':
      return tcpSend(work, shared);
    case 'udpReceive':
      return udpReceive(work, shared, ready);
    case 'udpSend':
      return udpSend(work, shared);
  }
}

function say(message: WorkerMessage): void {
  port.postMessage(message);
}
