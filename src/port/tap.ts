/**
 * tap: an Ethernet interface of this machine's kernel. What the kernel sends on it comes in here; what goes out here, the kernel receives.
 *
 *   tap:IFNAME[,netns=NAME][,mac=02:…]    creates the interface when it does not exist
 *
 * A lane is a queue of the interface (tap-queues.ts).
 *
 * Every frame carries a 12-byte virtio-net header. One system call a frame: that is where the time of a TAP goes.
 */
import * as L from '../../datapath/layout.js';
import { EAGAIN, EBADF, EBADFD, EINTR, EINVAL, EIO, ENOBUFS, LinuxError } from '../linux/errors.js';
import type { OwnedFd } from '../linux/fd.js';
import { parseMac } from '../linux/ip-address.js';
import { readv, writev } from '../linux/libc.js';
import { openNetns } from '../linux/netns.js';
import type { Tap } from '../linux/tun.js';
import type { Window } from '../memory/window.js';
import type { Batch } from '../ring/batch.js';
import { add, readCounters } from './counters.js';
import {
  type Port,
  type PortDescriptor,
  PortError,
  type PortHandle,
  type PortHost,
  type PortKind,
  type PortWorker,
} from './port.js';
import { INLET_BYTES, Inlet, OUTLET_BYTES, Outlet, prepareInlet, prepareOutlet } from './soften.js';
import { TapQueues } from './tap-queues.js';

/** State of each lane: what both halves share, then where frames are softened, those that come and those that go. */
const INLET = L.PORT_SIZE;
const OUTLET = INLET + INLET_BYTES;
const LANE_SIZE = OUTLET + OUTLET_BYTES;

/** A TAP that its owner can do more with than move frames. */
export interface TapHandle extends PortHandle {
  /** The first of its queues, which is always in service. */
  readonly tap: Tap;
  /** The interface's namespace; undefined: our own. */
  readonly netns: OwnedFd | undefined;
  /** What its kernel can be asked to hand out (OFFLOAD_*); the rest it does itself before. */
  readonly offloads: number;
  setCarrier(up: boolean): void;
}

class TapPort implements Port {
  readonly fd: number;
  exhausted = false;
  readonly #window: Window;
  readonly #state: number;
  readonly #inlet: Inlet;
  readonly #outlet: Outlet;

  constructor({ fds, state }: PortDescriptor, worker: PortWorker) {
    this.fd = fds[0]!;
    this.#window = worker.window;
    this.#state = state;
    this.#inlet = new Inlet(worker, state + INLET, state);
    this.#outlet = new Outlet(worker, state + OUTLET);
  }

  put(batch: Batch): number {
    const { count } = batch;
    let dropped = 0;
    let softened = 0;
    let taken = 0;
    for (; taken < count; taken++) {
      const result = writev(this.fd, batch.iovAddress(taken), batch.iovs(taken));
      if (result > 0) continue;
      if (result === -EAGAIN || result === -EINTR) break;
      if (result === -EINVAL && batch.asks(taken) && this.#putSoftened(batch, taken)) {
        softened++;
        continue;
      }
      dropped++; // EIO: the interface is down; EINVAL: no Ethernet frame
      if (result !== -EIO && result !== -ENOBUFS) this.#failed(result);
    }
    this.#add(L.PORT_SENT, taken - dropped - softened);
    if (softened !== 0) this.#add(L.PORT_SOFTENED, softened);
    if (dropped !== 0) this.#add(L.PORT_DROPPED, dropped);
    return taken;
  }

  get(batch: Batch): number {
    const { count } = batch;
    const offloads = this.#window.words[(this.#state + L.PORT_OFFLOADS) >>> 2]!;
    let filled = this.#inlet.rest(batch, 0);
    for (let calls = 0; filled < count && calls < L.MAX_BATCH; calls++) {
      const result = readv(this.fd, batch.iovAddress(filled), batch.iovs(filled) + 1);
      if (result < 0) {
        if (result !== -EAGAIN && result !== -EINTR) this.#failed(result);
        break;
      }
      const length = result - L.VNET_HEADER_SIZE;
      batch.setLength(filled, length);
      if (length <= batch.room(filled) && !batch.asks(filled)) filled++;
      else filled = this.#inlet.take(batch, filled, offloads);
    }
    if (filled !== 0) this.#add(L.PORT_RECEIVED, filled);
    return filled;
  }

  /** The kernel refused frame `i`: if that is for what it asks, it gets the pieces. Old kernels know no USO, none takes more than 128 datagrams. */
  #putSoftened(batch: Batch, i: number): boolean {
    if (!this.#outlet.begin(batch, i)) return false;
    const { pieces } = this.#outlet;
    let sent = 0;
    let dropped = 0;
    while (this.#outlet.fill() > 0) {
      for (let p = 0; p < pieces.count; p++) {
        if (writev(this.fd, pieces.iovAddress(p), pieces.iovs(p)) > 0) sent++;
        else dropped++; // whatever the reason: a frame can't be taken in part
      }
    }
    this.#add(L.PORT_SENT, sent);
    this.#add(L.PORT_DROPPED, dropped);
    return true;
  }

  #add(field: number, n: number): void {
    add(this.#window, this.#state, field, n);
  }

  #failed(result: number): void {
    this.#add(L.PORT_ERRORS, 1);
    if (result === -EBADFD || result === -EBADF) this.exhausted = true;
  }
}

/** The main thread's half of a TAP, or what is used like one. It owns queues and namespace from now on. Throws LinuxError, and they stay the caller's. */
export function handleOf(
  queues: TapQueues,
  netns: OwnedFd | undefined,
  { window, arena }: PortHost,
): TapHandle {
  const { first } = queues;
  const known = first.probeOffloads();
  const state = arena.allocate(queues.all.length * LANE_SIZE);
  const lanes = queues.all.map(({ fd }, i) => ({
    ...{ kind: 'tap', name: first.name, state: state + i * LANE_SIZE, fds: [fd], options: {} },
  }));
  for (const lane of lanes) {
    prepareInlet(window, lane.state + INLET);
    prepareOutlet(window, lane.state + OUTLET);
  }
  return {
    tap: first,
    netns,
    offloads: known,
    lanes,
    counters: () => readCounters(window, lanes),
    useLanes: n => queues.use(n),
    setCarrier(up) {
      if (first.exists) first.setCarrier(up);
    },
    setOffloads(offloads) {
      // The reading half looks at what it gets: frames that were queued under other rules may still come.
      for (const lane of lanes) window.words[(lane.state + L.PORT_OFFLOADS) >>> 2] = offloads;
      try {
        first.setOffload(offloads & known); // of all queues: they are the interface's
      } catch (error) {
        if (!(error instanceof LinuxError)) throw error; // the interface is gone
      }
    },
    close() {
      queues.close();
      arena.free(state);
      netns?.close();
    },
  };
}

export const tap: PortKind = {
  kind: 'tap',
  usage: 'tap:IFNAME[,netns=NAME][,mac=ADDRESS]',
  options: ['_', 'netns', 'mac'],
  open(options, host, lanes): TapHandle {
    const name = options.get('_') ?? '';
    if (!/^[^\s/]{1,15}$/.test(name)) {
      throw new PortError(
        'PORT_SPEC',
        `tap: "${name}" is no interface name (1 to 15 characters): write tap:IFNAME`,
      );
    }
    const mac = options.has('mac') ? parseMac(options.get('mac')!) : null;
    const netns: OwnedFd | undefined = options.has('netns') ? openNetns(options.get('netns')!) : undefined;
    let opened: TapQueues | undefined;
    try {
      const queues = TapQueues.open(netns ? { name, netns } : { name }, lanes);
      opened = queues;
      if (mac) queues.first.mac = mac;
      return handleOf(queues, netns, host);
    } catch (error) {
      opened?.close();
      netns?.close();
      throw error;
    }
  },
  attach: (descriptor, worker) => new TapPort(descriptor, worker),
};
