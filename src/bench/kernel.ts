/**
 * A TAP in a namespace of its own, with a socket on the kernel's side, so that frames take the way that those of a guest take:
 *
 * ```
 *   tx   batch ── writev ──► TAP ──► IP ──► UDP socket ── emptied after each turn
 *   rx   batch ◄── readv ── TAP ◄── packet socket ── fills the TAP before each turn
 *                 timed
 * ```
 */
import * as L from '../../datapath/layout.js';
import { EAGAIN } from '../linux/errors.js';
import { changeLink } from '../linux/link.js';
import { createNetns } from '../linux/netns.js';
import { addAddress } from '../linux/route.js';
import { openPacket, openUdp } from '../linux/socket.js';
import { silenceIpv6 } from '../linux/sysctl.js';
import { UdpBatch } from '../linux/udp-batch.js';
import type { PortHandle } from '../port/port.js';
import { attachPort, openPort } from '../port/registry.js';
import type { Batch } from '../ring/batch.js';
import type { Bed } from './bed.js';
import { BenchError } from './errors.js';
import type { Mover } from './turns.js';

const NAME = 'pn-bench';
const MAC = '02:00:00:00:00:01';
const IP = '10.0.0.1';
const PORT = 5001;
const ETHERNET = 14;
/** The largest that a TAP may have: its longest frame is a byte shorter than the longest of a ring. */
const MTU = 65535 - ETHERNET;
/** Of the socket: for a batch of any frames, where we may have so much. */
const SOCKET_BYTES = 16 << 20;

/** Throws LinuxError: EPERM, ENOENT, EACCES without the rights for namespaces or TAPs. */
export function openTapMover(bed: Bed): Mover {
  const { host, calls, direction } = bed;
  const netns = createNetns('bench');
  let handle: PortHandle | null = null;
  try {
    silenceIpv6(netns);
    handle = openPort(`tap:${NAME},netns=/proc/self/fd/${netns.fd},mac=${MAC}`, host);
    addAddress(NAME, `${IP}/24`, netns);
    changeLink(NAME, { up: true, mtu: MTU }, netns);
    const port = attachPort(handle.lanes[0]!, { window: host.window, calls });
    const outside = direction === 'tx' ? socketBehind(bed, netns) : sourceBehind(bed, netns);
    const opened = handle;
    return {
      before: outside.before,
      move: direction === 'tx' ? batch => port.put(batch) : batch => port.get(batch),
      after: outside.after,
      [Symbol.dispose]() {
        outside[Symbol.dispose]();
        opened.close();
        netns.close();
      },
    };
  } catch (error) {
    handle?.close();
    netns.close();
    throw error;
  }
}

type Outside = Omit<Mover, 'move'>;
type Netns = ReturnType<typeof createNetns>;

/** Makes the frames datagrams for a socket, and takes them out of it. */
function socketBehind({ host: { window }, length }: Bed, netns: Netns): Outside {
  const socket = openUdp(IP, { netns }).setBuffers({ receive: SOCKET_BYTES }).bind({ ip: IP, port: PORT });
  const headers = datagramHeaders(length);
  const arrived = new UdpBatch(L.MAX_BATCH, 64);
  return {
    before(batch) {
      for (let i = 0; i < batch.count; i++) window.bytes.set(headers, payloadOf(batch, i, window.words));
    },
    after() {
      const n = arrived.receive(socket.fd);
      if (n <= 0) throw new BenchError(`no frame that was written to the TAP has reached the socket (${n})`);
      while (arrived.receive(socket.fd) !== -EAGAIN);
    },
    [Symbol.dispose]: () => socket.close(),
  };
}

/** Sends as many frames through the TAP as a batch has. */
function sourceBehind(bed: Bed, netns: Netns): Outside {
  const { frames } = bed;
  const length = Math.min(bed.length, MTU + ETHERNET);
  const socket = openPacket(NAME, { netns }).setBuffers({ send: SOCKET_BYTES });
  const sent = new UdpBatch(frames, length);
  const headers = datagramHeaders(length);
  for (let i = 0; i < frames; i++) sent.payload.set(headers, i * length);
  return {
    before() {
      for (let done = 0; done < frames; ) {
        const n = sent.send(socket.fd, done, frames - done, length);
        if (n <= 0) throw new BenchError(`the TAP takes no more than ${done} frames (${n})`);
        done += n;
      }
    },
    after() {},
    [Symbol.dispose]: () => socket.close(),
  };
}

/** Window address of the first byte of frame `i`. */
function payloadOf(batch: Batch, i: number, words: Uint32Array): number {
  const frame = words[(batch.address + L.BATCH_FRAMES) >>> 2]! + i * L.FRAME_SIZE;
  return words[words[(frame + L.FRAME_WIN) >>> 2]! >>> 2]!;
}

/** Ethernet, IPv4, UDP without a checksum: a frame of `length` bytes from 10.0.0.2 to the socket. */
export function datagramHeaders(length: number): Uint8Array {
  const bytes = new Uint8Array(42);
  const view = new DataView(bytes.buffer);
  bytes.set([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00]);
  bytes.set([0x45, 0], 14);
  view.setUint16(16, length - 14);
  bytes.set([64, 17], 22);
  bytes.set([10, 0, 0, 2, 10, 0, 0, 1], 26);
  let sum = 0;
  for (let i = 14; i < 34; i += 2) sum += view.getUint16(i);
  sum = (sum & 0xffff) + (sum >>> 16);
  view.setUint16(24, ~(sum + (sum >>> 16)));
  view.setUint16(34, PORT);
  view.setUint16(36, PORT);
  view.setUint16(38, length - 34);
  return bytes;
}
