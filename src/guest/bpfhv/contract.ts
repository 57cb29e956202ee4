/** What a device offers, read once and checked, and the queues that a driver makes of it. */
import * as L from '../../../datapath/layout.js';
import type { Arena } from '../../memory/arena.js';
import { MemoryError, type Window } from '../../memory/window.js';
import type { Direction } from '../../nic/control.js';
import { FEATURE, isLarge, maskOf, offloadsOf } from '../../ring/features.js';
import type { DriverQueue } from './commands.js';
import { ABI_VERSION, LARGE_RX_BUFFER_SIZE, programNumber, REG, RX_BUFFER_SIZE } from './registers.js';
import { type BpfhvTransport, DriverError } from './transport.js';

/** What a device is made of. */
export interface DeviceSizes {
  readonly numRxQueues: number;
  readonly numTxQueues: number;
  readonly numRxBufs: number;
  readonly numTxBufs: number;
  readonly rxContextSize: number;
  readonly txContextSize: number;
}

export interface Contract extends DeviceSizes {
  /** Feature bits that the device offers and the driver accepts. */
  readonly features: bigint;
  readonly mac: Uint8Array;
  /** Bytes that its packets grow by on their way; not there: none. */
  readonly overhead?: number;
}

/** The registers that make up the contract, and what each may hold. */
const isQueues = (n: number) => n >= 1 && n <= 32;
const isBufs = (n: number) => n >= 16 && n <= 8192 && (n & (n - 1)) === 0;
const isContextSize = (n: number) => n >= L.CTX_OPAQUE && n <= 2 ** 24;
const CHECKED = [
  ['numRxQueues', REG.NUM_RX_QUEUES, isQueues],
  ['numTxQueues', REG.NUM_TX_QUEUES, isQueues],
  ['numRxBufs', REG.NUM_RX_BUFS, isBufs],
  ['numTxBufs', REG.NUM_TX_BUFS, isBufs],
  ['rxContextSize', REG.RX_CTX_SIZE, isContextSize],
  ['txContextSize', REG.TX_CTX_SIZE, isContextSize],
] as const;

/** How buffers are cut. Bytes from one to the next are a power of two: half a page, or a page of which a large frame takes several. */
interface Buffers {
  readonly stride: number;
  /** Bytes of a frame that one may hold. */
  readonly room: number;
  /** Of how many a frame may be made. */
  readonly perFrame: number;
}
const SMALL_BUFFERS: Buffers = { stride: 2048, room: RX_BUFFER_SIZE, perFrame: 1 };
/** Received frames come in buffers of the size that the ABI names. To transmit, fewer and larger ones save the kernel work that small frames would pay for. */
const LARGE_BUFFERS: Readonly<Record<Direction, Buffers>> = {
  rx: { stride: 4096, room: LARGE_RX_BUFFER_SIZE, perFrame: L.LARGE_FRAME / LARGE_RX_BUFFER_SIZE },
  tx: { stride: 16384, room: 16384, perFrame: L.LARGE_FRAME / 16384 },
};
/** Bytes of guest memory that a receive and a transmit buffer take together at most. */
export const BUFFER_PAIR = LARGE_BUFFERS.rx.stride + LARGE_BUFFERS.tx.stride;

/** Reads the sizes. Throws DriverError DRIVER_DEVICE for another ABI version or numbers that no device may have. */
export async function readSizes(transport: Pick<BpfhvTransport, 'read'>): Promise<DeviceSizes> {
  const version = await transport.read(REG.VERSION);
  if (version !== ABI_VERSION) {
    throw new DriverError(
      'DRIVER_DEVICE',
      `the device speaks ABI version ${version}, this driver ${ABI_VERSION}`,
    );
  }
  const values: Partial<Record<keyof DeviceSizes, number>> = {};
  for (const [name, register, check] of CHECKED) {
    const value = await transport.read(register);
    if (!check(value)) throw new DriverError('DRIVER_DEVICE', `the device says ${name} is ${value}`);
    values[name] = value;
  }
  return values as DeviceSizes;
}

/** Reads the contract; of the features that the device offers it accepts those in `wanted`. Throws as `readSizes`. */
export async function readContract(transport: BpfhvTransport, wanted: bigint): Promise<Contract> {
  const sizes = await readSizes(transport);
  const low = await transport.read(REG.MAC_LO);
  const high = await transport.read(REG.MAC_HI);
  const mac = Uint8Array.of(high >>> 8, high, low >>> 24, low >>> 16, low >>> 8, low);
  return {
    ...sizes,
    mac,
    features: acceptable(BigInt(await transport.read(REG.FEATURES)) & wanted),
  };
}

/** Without scatter-gather a packet has one buffer, so none can be large enough to be segmented. */
function acceptable(features: bigint): bigint {
  const { SG, TSOV4, TSOV6, UFO } = FEATURE;
  return (features & maskOf(SG)) !== 0n ? features : features & ~maskOf(TSOV4, TSOV6, UFO);
}

/** A queue, with what only its owner on the main thread needs. */
export interface OwnQueue extends DriverQueue {
  readonly direction: Direction;
  /** Window addresses in guest memory. */
  readonly context: number;
  readonly bufferBase: number;
}

/** What queues had counted when they were let go. */
export type QueueCounters = readonly {
  readonly index: number;
  readonly direction: Direction;
  readonly values: BigUint64Array;
}[];

/** What happens to a contract's packets beside the ring: the optional programs, and where frames lie meanwhile. */
export interface Hooks {
  /** There is a txh. */
  readonly prepare: boolean;
  /** There is an rxh. */
  readonly finish: boolean;
  /** Window addresses of private memory, STAGING_SIZE bytes each, for frames that no device may read: then a frame has one buffer. */
  readonly staging: Readonly<Record<Direction, number>> | null;
}
const NO_HOOKS: Hooks = { prepare: false, finish: false, staging: null };

/** What queues are made of: memory, and the device's two eventfds for each. */
export interface QueueHost {
  readonly transport: Pick<BpfhvTransport, 'ram' | 'doorbell' | 'interrupt'>;
  readonly arena: Arena;
  readonly window: Window;
}

function tooLarge(contract: Contract, { transport }: QueueHost, { code, message }: MemoryError): MemoryError {
  const { numRxQueues, numTxQueues, numRxBufs, numTxBufs } = contract;
  const queues = `${numRxQueues}/${numTxQueues} queues of ${numRxBufs}/${numTxBufs} buffers`;
  const memory = `${transport.ram.size / 2 ** 20} MiB of guest memory`;
  return new MemoryError(code, `${queues} do not fit into ${memory} beside what is in use: ${message}`);
}

/** All queues of a contract: contexts and buffers in guest memory, bookkeeping in the arena. `close` gives everything back. */
export class DriverQueues {
  readonly all: readonly OwnQueue[];
  /** What has been taken of guest memory and arena, and how to give it back. */
  readonly #taken: (() => void)[] = [];
  readonly #host: QueueHost;
  readonly #features: bigint;
  readonly #hooks: Hooks;

  /** Throws MemoryError MEMORY_FULL when guest memory or arena is too small for the contract, and leaves nothing taken. */
  constructor(contract: Contract, host: QueueHost, hooks: Hooks = NO_HOOKS) {
    this.#host = host;
    this.#hooks = hooks;
    this.#features = contract.features;
    const { numRxQueues, numTxQueues } = contract;
    try {
      this.all = Array.from({ length: numRxQueues + numTxQueues }, (_, index) =>
        index < numRxQueues
          ? this.#make(index, 'rx', contract.numRxBufs, contract.rxContextSize)
          : this.#make(index, 'tx', contract.numTxBufs, contract.txContextSize),
      );
    } catch (error) {
      this.close();
      throw error instanceof MemoryError ? tooLarge(contract, host, error) : error;
    }
  }

  get rx(): DriverQueue[] {
    return this.#plain('rx');
  }

  get tx(): DriverQueue[] {
    return this.#plain('tx');
  }

  /** Tells the device which of its features are wanted, and where the contexts are. */
  async register(transport: BpfhvTransport): Promise<void> {
    await transport.write(REG.FEATURES, Number(this.#features));
    for (const { index, context } of this.all) {
      const gpa = transport.ram.toGuest(context);
      await transport.write(REG.QUEUE_SELECT, index);
      await transport.write(REG.CTX_PADDR_LO, Number(gpa & 0xffff_ffffn));
      await transport.write(REG.CTX_PADDR_HI, Number(gpa >> 32n));
    }
  }

  counters(): QueueCounters {
    return this.all.map(({ index, direction, address }) => {
      const at = (address + L.DRIVER_STATS) / 8;
      return { index, direction, values: this.#host.window.longs.slice(at, at + L.STATS_SIZE / 8) };
    });
  }

  /** Goes on counting from there. For queues that no worker runs. */
  inherit(counters: QueueCounters): void {
    for (const { index, direction, values } of counters) {
      const queue = this.all[index];
      if (queue?.direction === direction)
        this.#host.window.longs.set(values, (queue.address + L.DRIVER_STATS) / 8);
    }
  }

  close(): void {
    for (const giveBack of this.#taken.splice(0)) giveBack();
  }

  #take(from: Arena, size: number): number {
    return this.#given(from, from.allocate(size));
  }

  /** Of guest memory. The piece, or each part of `alignment` bytes, lies in one page. */
  #takeRam(size: number, alignment?: number): number {
    const { ram } = this.#host.transport;
    return this.#given(ram, ram.allocate(size, alignment));
  }

  #given(from: { free(address: number): void }, address: number): number {
    this.#taken.push(() => from.free(address));
    return address;
  }

  #make(index: number, direction: Direction, num: number, contextSize: number): OwnQueue {
    const { transport, arena, window } = this.#host;
    const { ram } = transport;
    const { prepare, finish, staging } = this.#hooks;
    const offloads = offloadsOf(this.#features, direction);
    const { stride, room, perFrame } = isLarge(offloads) ? LARGE_BUFFERS[direction] : SMALL_BUFFERS;
    const context = this.#takeRam(contextSize);
    const bufferBase = this.#takeRam(num * stride, stride);
    const address = this.#take(arena, L.DRIVER_SIZE);
    const lists = this.#take(arena, num * 5); // the stack of free buffers, then an owner byte for each
    const fields: [number, number][] = [
      [L.DRIVER_CONTEXT, context],
      [L.DRIVER_NUM, num],
      [L.DRIVER_PUBLISH, programNumber(`${direction}p`)],
      [L.DRIVER_COMPLETE, programNumber(`${direction}c`)],
      [L.DRIVER_ARM, programNumber(`${direction}i`)],
      [L.DRIVER_RECLAIM, programNumber(`${direction}r`)],
      [L.DRIVER_BUFFERS, bufferBase],
      [L.DRIVER_STRIDE, stride],
      [L.DRIVER_ROOM, room],
      [L.DRIVER_FRAME_BUFFERS, perFrame],
      [L.DRIVER_OFFLOADS, offloads],
      [L.DRIVER_PREPARE, prepare ? programNumber('txh') : 0],
      [L.DRIVER_FINISH, finish ? programNumber('rxh') : 0],
      [L.DRIVER_STAGING, staging?.[direction] ?? 0],
      [L.DRIVER_FREE, lists],
      [L.DRIVER_OWNER, lists + num * 4],
    ];
    for (const [field, value] of fields) window.words[(address + field) >>> 2] = value;
    window.longs[(address + L.DRIVER_BUFFERS_GPA) / 8] = ram.toGuest(bufferBase);
    const doorbell = transport.doorbell(index);
    const interrupt = transport.interrupt(index);
    return { index, direction, address, buffers: num, doorbell, interrupt, context, bufferBase };
  }

  #plain(direction: Direction): DriverQueue[] {
    return this.all
      .filter(queue => queue.direction === direction)
      .map(({ index, address, buffers, doorbell, interrupt }) => ({
        index,
        address,
        buffers,
        doorbell,
        interrupt,
      }));
  }
}
