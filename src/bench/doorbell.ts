/**
 * From a doorbell on PCI to the frame at the port: a device in a process of its own, an idle queue, and one frame at a time.
 *
 * ```
 *   this thread   posts a descriptor ── doorbell ──► polynic serve ── writev ──► TAP ──► packet socket of this thread
 *
 *   pci/doorbell/message    a write to BAR 1, as a message: what a guest's doorbell is on its way from QEMU
 *               /eventfd    the doorbell's own eventfd, for clients that ask for it
 *               …/p50, p99
 * ```
 * The ring is written here by hand, so that nothing of a driver is measured.
 */
import * as L from '../../datapath/layout.js';
import { socketChannel } from '../control/bpfhv-proxy/index.js';
import { encodeCommand, VfioUserAccess } from '../control/vfio-user/index.js';
import { Child, SOCKET } from '../demo/child.js';
import { type Machine, Network } from '../demo/network.js';
import { CTRL, REG, STATUS } from '../guest/bpfhv/registers.js';
import { GuestRam } from '../guest/guest-ram.js';
import { monotonicNs } from '../linux/clock.js';
import { check } from '../linux/errors.js';
import { signalEventFd } from '../linux/eventfd.js';
import { changeLink } from '../linux/link.js';
import { type LinkMonitor, monitorLink } from '../linux/link-monitor.js';
import { openPacket } from '../linux/socket.js';
import { socketPair, type UnixSocket } from '../linux/unix-socket.js';
import { REGION } from '../linux/vfio-numbers.js';
import { Window } from '../memory/window.js';
import { BenchError } from './errors.js';
import { type BenchResult, result } from './result.js';

const RUNS = 500;
const WARM_UP = 50;
const LOST_MS = 2000;
const RAM_SIZE = 0x20_0000;
const BUFS = 256;
const RX = 0;
const TX = 1;
/** In a context of sring, from its opaque part on (docs/bpfhv.md). */
const SRING = { PROD: 0, KICK_ENABLED: 132, DESCRIPTORS: 512, DESCRIPTOR: 24, PADDR: 8, LEN: 16 } as const;
/** To everybody, of a kind that no kernel answers. */
const FRAME = Uint8Array.from({ length: 60 }, (_, i) =>
  i < 6 ? 0xff : i === 12 ? 0x88 : i === 13 ? 0xb5 : 2,
);

/** Throws BenchError when a frame does not come through; LinuxError without the rights for namespaces. */
export async function measureDoorbell(): Promise<BenchResult[]> {
  const network = Network.create();
  const { host } = network;
  const [theirs, ours] = socketPair('bench');
  const words = ['serve', '--vfio-user', SOCKET, '--port', host.port, '--bufs', String(BUFS)];
  const backend = new Child({ name: 'backend', args: words, socket: theirs.owner.fd, verbose: false });
  theirs.close();
  try {
    await Promise.race([backend.ended, appears(host)]);
    changeLink(host.interfaceName, { up: true }, host.netns);
    const access = await VfioUserAccess.open(socketChannel(ours));
    const window = Window.create();
    const ram = new GuestRam(window, RAM_SIZE);
    try {
      return await measure(access, ours, ram, window, host);
    } finally {
      await access.close();
      ram.close();
    }
  } finally {
    await backend.stop();
    network.close();
  }
}

async function measure(
  access: VfioUserAccess,
  socket: UnixSocket,
  ram: GuestRam,
  window: Window,
  host: Machine,
): Promise<BenchResult[]> {
  const queue = transmitQueue(ram, window, await setUp(access, ram));
  const size = await access.read(REGION.BAR0, REG.DOORBELL_SIZE, 4);
  const own = access.doorbell(REGION.BAR1, TX * size);
  if (!own) throw new BenchError('the device has no eventfd for its doorbell');
  const port = openPacket(host.interfaceName, { netns: host.netns }).setTimeouts(LOST_MS);
  const into = Buffer.alloc(FRAME.length);
  // Posted, as QEMU does it, and at once: the client would send it in a later turn of the event loop.
  const place = { offset: BigInt(TX * size), region: REGION.BAR1, count: 4 };
  const message = encodeCommand('REGION_WRITE', place, Uint8Array.of(1, 0, 0, 0), { noReply: true });
  const ways = {
    message: () => void socket.send(message),
    eventfd: () => void check(signalEventFd(own.fd), 'write', own.name),
  };
  try {
    const results: BenchResult[] = [];
    for (const [way, ring] of Object.entries(ways)) {
      const times: number[] = [];
      for (let i = 0; i < WARM_UP + RUNS; i++) {
        queue.post();
        const start = monotonicNs();
        ring();
        check(port.recv(into, into.length), 'recv', port.name);
        times.push((monotonicNs() - start) / 1000);
        await queue.asleep();
      }
      times.splice(0, WARM_UP);
      times.sort((a, b) => a - b);
      for (const [name, share] of [
        ['p50', 0.5],
        ['p99', 0.99],
      ] as const)
        results.push(result(`pci/doorbell/${way}/${name}`, 'us', times[Math.floor(share * times.length)]!));
    }
    return results;
  } finally {
    port.owner.close();
  }
}

/** Has the device run, with an empty receive queue. Returns where its transmit ring is, a window address. */
async function setUp(access: VfioUserAccess, ram: GuestRam): Promise<number> {
  const register = (at: number) => access.read(REGION.BAR0, at, 4);
  const set = (at: number, value: number) => access.write(REGION.BAR0, at, value, 4);
  const { guestPhysicalAddress: iova, size, fd } = ram;
  await access.map({ iova, size, fd, offset: 0 });
  const contexts: number[] = [];
  for (const [index, sizeAt] of [
    [RX, REG.RX_CTX_SIZE],
    [TX, REG.TX_CTX_SIZE],
  ] as const) {
    contexts[index] = ram.allocate(await register(sizeAt));
    const gpa = ram.toGuest(contexts[index]!);
    await set(REG.QUEUE_SELECT, index);
    await set(REG.CTX_PADDR_LO, Number(gpa & 0xffff_ffffn));
    await set(REG.CTX_PADDR_HI, Number(gpa >> 32n));
  }
  await set(REG.CTRL, CTRL.RX_ENABLE | CTRL.TX_ENABLE);
  const both = STATUS.RX_ENABLED | STATUS.TX_ENABLED;
  if (((await register(REG.STATUS)) & both) !== both) throw new BenchError('the device does not run');
  return contexts[TX]! + L.CTX_OPAQUE;
}

function transmitQueue(ram: GuestRam, { bytes, longs, words }: Window, ring: number) {
  const buffer = ram.allocate(FRAME.length);
  bytes.set(FRAME, buffer);
  let prod = 0;
  return {
    post(): void {
      const at = ring + SRING.DESCRIPTORS + (prod & (BUFS - 1)) * SRING.DESCRIPTOR;
      longs[(at + SRING.PADDR) / 8] = ram.toGuest(buffer);
      words[(at + SRING.LEN) / 4] = FRAME.length;
      Atomics.store(words, (ring + SRING.PROD) / 4, ++prod);
    },
    /** The device wants a doorbell for the next one. */
    async asleep(): Promise<void> {
      const limit = monotonicNs() + LOST_MS * 1e6;
      while (Atomics.load(words, (ring + SRING.KICK_ENABLED) / 4) === 0) {
        if (monotonicNs() > limit) throw new BenchError('the device does not sleep');
        await new Promise(resolve => setImmediate(resolve));
      }
    },
  };
}

/** Resolves when the interface is there. */
async function appears({ interfaceName, netns }: Machine): Promise<void> {
  let monitor: LinkMonitor | undefined;
  await new Promise<void>(resolve => {
    monitor = monitorLink(interfaceName, netns, link => {
      if (link) resolve();
    });
  });
  monitor?.close();
}
