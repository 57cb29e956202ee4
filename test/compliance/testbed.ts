/**
 * One queue pair with both of its sides in this thread, so that a test decides who moves when.
 *
 * ```
 *   guest side                         a memfd, mapped twice                device side
 *   driver_* ── programs (.o) ──►  context: ring ◄──────────────────────  Ring
 *                                  buffers        ◄── region table ──────  frames
 *   driver struct, batch               │ canary, hole, canary │             queue struct, batch
 * ```
 * The guest's view and the device's are two mappings of the same file at different window addresses, as in real life. The region table leaves
 * out the file's first and last page and one page in the middle: nobody may touch what is there.
 */
import { readFileSync } from 'node:fs';
import * as L from '../../datapath/layout.js';
import { loadObject } from '../../src/ebpf/elf.js';
import type { HelperSpec, HelperTable } from '../../src/ebpf/helpers.js';
import { interpret } from '../../src/ebpf/interpreter.js';
import { compile, instantiate } from '../../src/ebpf/jit/index.js';
import { decodeProgram, type Program } from '../../src/ebpf/program.js';
import { STACK_BYTES } from '../../src/ebpf/sandbox.js';
import { verify } from '../../src/ebpf/verifier/index.js';
import { BUFFER_PAIR, DriverQueues } from '../../src/guest/bpfhv/contract.js';
import { BPFHV_HELPERS, helperImplementations } from '../../src/guest/bpfhv/helpers.js';
import { runBudget } from '../../src/guest/bpfhv/programs.js';
import { PROGRAMS, promisesTo } from '../../src/guest/bpfhv/registers.js';
import { GuestRam } from '../../src/guest/guest-ram.js';
import { eventually as tryFor } from '../../src/linux/testing.js';
import { Arena } from '../../src/memory/arena.js';
import { GuestMemory, type RegionTable } from '../../src/memory/guest-memory.js';
import { WINDOW_PAGES, Window } from '../../src/memory/window.js';
import { Queue } from '../../src/nic/queue.js';
import { Batch } from '../../src/ring/batch.js';
import { type Datapath, type DatapathExports, loadDatapath } from '../../src/ring/datapath.js';
import { frameLimits } from '../../src/ring/features.js';
import { deviceType } from '../../src/ring/registry.js';
import type { DeviceType, Ring } from '../../src/ring/ring.js';
import { RingView } from '../../src/ring/view.js';

export type Engine = 'jit' | 'interpreter';
export type Direction = 'tx' | 'rx';

const PAGE = 4096;
const SMP_MB_FULL = 0x4b8f0009;
const CANARY = 0xa5;

/** One for all testbeds of the process: a window is 4 GiB of addresses. */
export const window = Window.create();
export const arena = new Arena(window);

export interface TestbedOptions {
  readonly device: string;
  /** Descriptors of each ring. */
  readonly num?: number;
  readonly engine?: Engine;
  /** Feature bits that the guest has accepted; default: none. */
  readonly features?: bigint;
  /** Path of an object with other programs for this type; default: the shipped one. */
  readonly object?: string;
  /** Replaces programs, by section. */
  readonly programs?: ReadonlyMap<string, Uint8Array>;
  /** What the device says that its contexts take, when it lies. */
  readonly contextSize?: number;
  /** Modules that stop at every access to memory (preempt.ts), so that `onAccess` is called by rings in WebAssembly and by programs too. */
  readonly preempt?: typeof import('./preempt.js');
  /** Another ring in place of the type's, such as one with a mistake. */
  readonly wrap?: (ring: Ring, bed: Testbed) => Ring;
}

/** One direction. Addresses are window addresses. */
export interface Side {
  readonly direction: Direction;
  readonly queue: Queue;
  readonly driver: number;
  /** The context as the guest sees it. */
  readonly context: number;
  readonly contextSize: number;
  /** The first buffer as the guest sees it. */
  readonly buffers: number;
}

export class Testbed {
  readonly type: DeviceType;
  readonly num: number;
  readonly datapath: Datapath;
  readonly ring: Ring;
  readonly ram: GuestRam;
  readonly table: RegionTable;
  readonly tx: Side;
  readonly rx: Side;
  readonly guestBatch = Batch.allocate(window, arena);
  readonly deviceBatch = Batch.allocate(window, arena);
  /** What happens at every full barrier inside a program, when programs run with `barriers`; with `preempt` also before every access to the ring there. */
  onBarrier: () => void = () => {};
  /** What happens before every access of the device to its ring: of rings in TypeScript or JavaScript, with `preempt` of all. */
  onAccess: () => void = () => {};
  /** Guest physical addresses of pages that no region holds. */
  readonly forbidden: readonly bigint[];
  /** Window address of the programs' stack. */
  readonly stack = arena.allocate(STACK_BYTES);
  readonly #object: string | URL;
  readonly #preempt: TestbedOptions['preempt'];
  readonly #driverQueues: DriverQueues;
  readonly #memory: GuestMemory;
  readonly #canaries: readonly number[];

  constructor(options: TestbedOptions) {
    const { device, num = 16, engine = 'jit', features = 0n, programs, contextSize } = options;
    this.type = deviceType(device)!;
    this.#object = options.object ?? this.type.programs;
    this.num = num;
    this.datapath = loadDatapath(window);
    this.#preempt = options.preempt;
    const watched = (address: number) => {
      if (this.sides.some(({ queue }) => isIn(address, ringOf(queue.address), size - L.CTX_OPAQUE)))
        this.onAccess();
    };
    const calls = options.preempt?.preemptedDatapath(window, watched) ?? this.datapath.calls;
    const view = new WatchedView(window, calls, () => this.onAccess());
    const ring = this.type.ring({ ...this.datapath, calls, view });
    this.ring = options.wrap?.(ring, this) ?? ring;
    const size = this.ring.contextSize(num);
    const told = contextSize ?? size;
    const pages = Math.ceil((2 * Math.max(size, told) + num * BUFFER_PAIR) / PAGE) + 8;
    this.ram = new GuestRam(window, 2 * pages * PAGE);

    // First and last page, and one between the queues' memory and the rest, stay out of the table.
    const start = this.ram.guestPhysicalAddress;
    const first = this.ram.allocate(PAGE);
    this.#driverQueues = new DriverQueues(
      {
        ...{ numRxQueues: 1, numTxQueues: 1, numRxBufs: num, numTxBufs: num, features },
        ...{ rxContextSize: told, txContextSize: told, mac: new Uint8Array(6) },
      },
      {
        transport: { ram: this.ram, doorbell: () => -1, interrupt: () => -1 },
        arena,
        window,
      },
    );
    const hole = pages * PAGE;
    const end = 2 * pages * PAGE - PAGE;
    this.#canaries = [first, first + hole, first + end];
    this.forbidden = this.#canaries.map(at => start + BigInt(at - first));
    for (const at of this.#canaries) window.bytes.fill(CANARY, at, at + PAGE);

    const { fd } = this.ram;
    this.#memory = new GuestMemory(window, arena);
    this.table = this.#memory.build([
      ...[{ guestPhysicalAddress: start + 4096n, size: BigInt(hole - PAGE), mmapOffset: 4096n, fd }],
      {
        guestPhysicalAddress: start + BigInt(hole + PAGE),
        size: BigInt(end - hole - PAGE),
        mmapOffset: BigInt(hole + PAGE),
        fd,
      },
    ]);

    const [rx, tx] = this.#driverQueues.all;
    const side = (own: NonNullable<typeof rx>): Side => ({
      direction: own.direction,
      driver: own.address,
      context: own.context,
      contextSize: told,
      buffers: own.bufferBase,
      queue: new Queue(
        { window, arena },
        { index: own.index, direction: own.direction, num, contextSize: size },
      ),
    });
    this.rx = side(rx!);
    this.tx = side(tx!);
    for (const { queue } of this.sides) {
      const { maxFrame, offloads } = frameLimits(this.type, features, queue.direction);
      queue.setFrames(maxFrame, offloads);
    }
    this.load(engine, programs);
    this.reset();
  }

  get sides(): readonly Side[] {
    return [this.tx, this.rx];
  }

  /** Puts the device's programs, or `replacements`, in place for `engine`. With `barriers`, every smp_mb_full calls `onBarrier`. */
  load(engine: Engine, replacements?: ReadonlyMap<string, Uint8Array>, barriers = false): void {
    const object = loadObject(readFileSync(this.#object)).programs;
    for (const { number, section } of PROGRAMS) {
      const bytes = replacements?.get(section) ?? object.get(section);
      if (!bytes) continue;
      const program = decodeProgram(bytes, section);
      const run = engine === 'jit' ? this.#jit(program, barriers) : this.#interpreted(program, barriers);
      this.datapath.table.set(number, run);
    }
  }

  /** Fresh contexts on both sides: what a guest does after its device was stopped for good. */
  reset(): void {
    for (const { queue, driver, context } of this.sides) {
      queue.setContext(this.ram.toGuest(context), this.table, this.ring);
      this.datapath.calls.driver_reset(driver, this.num);
    }
  }

  /** A u32 of a side's ring, at an offset into the opaque part. */
  opaque(side: Side, offset: number): number {
    return window.words[(side.context + L.CTX_OPAQUE + offset) >>> 2]!;
  }

  /** A u32 of the driver's structure. */
  driver(side: Side, field: number): number {
    return window.words[(side.driver + field) >>> 2]!;
  }

  setDriver(side: Side, field: number, value: number): void {
    window.words[(side.driver + field) >>> 2] = value;
  }

  /** How many buffers each owner has, and whether lists and counters agree with that. Throws when they do not. */
  audit(side: Side): { free: number; driver: number; device: number } {
    const owner = this.driver(side, L.DRIVER_OWNER);
    const owners = [0, 0, 0];
    for (let i = 0; i < this.num; i++) {
      const of = window.bytes[owner + i]!;
      if (of > 2) throw new Error(`buffer ${i} is owned by ${of}`);
      owners[of]!++;
    }
    const [free, driver, device] = owners as [number, number, number];
    const freeCount = this.driver(side, L.DRIVER_FREE_COUNT);
    const stack = this.driver(side, L.DRIVER_FREE) >>> 2;
    const listed = new Set(window.words.subarray(stack, stack + freeCount));
    if (freeCount !== free || listed.size !== free) {
      throw new Error(`${free} buffers are free, ${freeCount} listed, ${listed.size} of them different`);
    }
    for (const index of listed)
      if (window.bytes[owner + index] !== L.OWNER_FREE) throw new Error(`buffer ${index} is not free`);
    if (this.driver(side, L.DRIVER_POSTED) !== device) {
      throw new Error(`${device} buffers are the device's, ${this.driver(side, L.DRIVER_POSTED)} posted`);
    }
    return { free, driver, device };
  }

  /** Throws when a page that is in no region has changed. */
  checkCanaries(): void {
    for (const at of this.#canaries) {
      const page = window.bytes.subarray(at, at + PAGE);
      const bad = page.findIndex(byte => byte !== CANARY);
      if (bad >= 0) throw new Error(`byte ${bad} of the page at window address ${at} was overwritten`);
    }
  }

  close(): void {
    for (const { queue } of this.sides) queue.close();
    this.#driverQueues.close();
    this.table.close();
    this.ram.close();
    arena.free(this.stack);
    arena.free(this.guestBatch.address);
    arena.free(this.deviceBatch.address);
  }

  #helpers(barriers: boolean): HelperTable {
    if (!barriers) return BPFHV_HELPERS;
    const barrier: HelperSpec = { id: SMP_MB_FULL, name: 'smp_mb_full', args: [] };
    return new Map([...BPFHV_HELPERS, [SMP_MB_FULL, barrier]]);
  }

  // biome-ignore lint/complexity/noBannedTypes: any callable will do
  #implementations(): Map<number, Function> {
    const barrier = () => {
      this.onBarrier();
      return 0n;
    };
    return new Map([...helperImplementations(this.datapath.calls, () => {}), [SMP_MB_FULL, barrier]]);
  }

  /** As a guest does, what the verifier accepts; the rest, which tests bring along, with all guards. */
  #jit(program: Program, barriers: boolean) {
    const memory = { contextSize: this.rx.contextSize, helpers: this.#helpers(barriers) };
    const verdict = verify(program, {
      ...{ ...memory, promises: promisesTo(program.name) },
      ...{ guarded: 'context', unbounded: 'budget' },
    });
    const { module, bytes } = compile(program, {
      ...memory,
      ...(verdict.accepted
        ? {
            unguarded: verdict.unguarded,
            guardedArguments: verdict.guardedArguments,
            promised: verdict.promised,
            confined: true,
          }
        : {}),
      budget: verdict.accepted && !verdict.budget ? Number.POSITIVE_INFINITY : runBudget(this.num),
      stackBase: this.stack,
      sharedMemory: true,
      memoryPages: WINDOW_PAGES,
    });
    if (this.#preempt && barriers) return this.#preempted(bytes, this.#preempt);
    return instantiate({ module }, window.memory, this.#implementations()).run;
  }

  /** The compiled program, which calls `onBarrier` before every access to a ring. */
  #preempted(bytes: Uint8Array, { withCalls, importsFor }: NonNullable<TestbedOptions['preempt']>) {
    const module = withCalls(bytes);
    const inRing = (address: number) =>
      this.sides.some(({ context, contextSize }) =>
        isIn(address, context + L.CTX_OPAQUE, contextSize - L.CTX_OPAQUE),
      );
    const { exports } = new WebAssembly.Instance(module, {
      env: { ...importsFor(module, address => inRing(address) && this.onBarrier()), memory: window.memory },
      helper: Object.fromEntries(this.#implementations()),
    });
    return exports.run;
  }

  #interpreted(program: Program, barriers: boolean) {
    const implementations = new Map(
      [...this.#implementations()].map(([id, helper]) => [
        id,
        (...args: bigint[]) => BigInt.asUintN(64, helper(...args.map(arg => BigInt.asIntN(64, arg)))),
      ]),
    );
    const sandbox = {
      memory: window.memory,
      contextSize: this.rx.contextSize,
      stackBase: this.stack,
      budget: runBudget(this.num),
      helpers: this.#helpers(barriers),
      implementations,
    };
    return tableFunction(context => BigInt.asIntN(64, interpret(program, sandbox, Number(context))));
  }
}

/** Tells of every access to the ring that a device side in TypeScript or JavaScript makes. */
class WatchedView extends RingView {
  readonly #onAccess: () => void;

  constructor(window: Window, calls: DatapathExports, onAccess: () => void) {
    super(window, calls);
    this.#onAccess = onAccess;
  }

  override word(queue: number, offset: number): number {
    this.#onAccess();
    return super.word(queue, offset);
  }
  override setWord(queue: number, offset: number, value: number): void {
    this.#onAccess();
    super.setWord(queue, offset, value);
  }
  override load(queue: number, offset: number): number {
    this.#onAccess();
    return super.load(queue, offset);
  }
  override store(queue: number, offset: number, value: number): void {
    this.#onAccess();
    super.store(queue, offset, value);
  }
}

/** Window address of a queue's ring as the device has it; 0: none yet. */
function ringOf(queue: number): number {
  return window.words[(queue + L.QUEUE_RING) >>> 2]!;
}

function isIn(address: number, start: number, length: number): boolean {
  return start !== 0 && address >= start && address - start < length;
}

/** The smallest module: it imports a function (i64) → i64 and exports it, since tables take WebAssembly functions only. */
const FORWARDER = new WebAssembly.Module(
  Uint8Array.of(
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...[1, 6, 1, 0x60, 1, 0x7e, 1, 0x7e], // type 0: (i64) → i64
    ...[2, 7, 1, 1, 0x6d, 1, 0x66, 0, 0], // import m.f as function 0 of type 0
    ...[7, 5, 1, 1, 0x66, 0, 0], // export it as f
  ),
);

function tableFunction(run: (context: bigint) => bigint) {
  return new WebAssembly.Instance(FORWARDER, { m: { f: run } }).exports.f;
}

/** The payload of a batch's i-th frame: window address of its first buffer. */
export function payload(batch: Batch, i: number): number {
  const frame = window.words[(batch.address + L.BATCH_FRAMES) >>> 2]! + i * L.FRAME_SIZE;
  return window.words[window.words[(frame + L.FRAME_WIN) >>> 2]! >>> 2]!;
}

/** A small random number generator: tests name the seed, so that what failed can be run again. */
export function randomFrom(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return below => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/** Tries until `attempt` gives something. Generous: a machine that is busy with other things is no failure. */
export function eventually<T>(attempt: () => T | null | undefined | false): Promise<T> {
  return tryFor(attempt, 30_000);
}
