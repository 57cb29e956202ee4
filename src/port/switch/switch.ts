/**
 * A switch as the main thread keeps it: its table, its ports, and how they come and go while others run.
 *
 * ```
 *   arena:   table ── port 0 ── lane 0 … ── inbox 0 …        one piece for each port: workers of others write into its inboxes
 *                 └── port 1 ── …
 * ```
 * There is one of a name in a process, from the first port to the last.
 */
import { randomBytes } from 'node:crypto';
import * as L from '../../../datapath/layout.js';
import { EventFd } from '../../linux/eventfd.js';
import type { Window } from '../../memory/window.js';
import { type DatapathExports, loadDatapath } from '../../ring/datapath.js';
import { readCounters } from '../counters.js';
import {
  type PortCounters,
  type PortDescriptor,
  PortError,
  type PortHandle,
  type PortHost,
} from '../port.js';
import { INLET_BYTES, prepareInlet } from '../soften.js';
import { INLET } from './lane.js';
import type { SwitchLimits } from './limits.js';

const LANE_BYTES = INLET + INLET_BYTES;
const NS_PER_SECOND = 1e9;
/** How long a port that leaves waits for a worker that is just bringing frames: that takes microseconds, unless the worker is dead. */
const PATIENCE_MS = 2000;

export interface MemberOptions {
  /** Has no traffic with other isolated ports. */
  readonly isolated: boolean;
  /** Seconds after which an address that is not used is forgotten. */
  readonly macAge: number;
  readonly lanes: number;
  readonly limits: SwitchLimits;
}

/** What a port of a switch counts. `dropped` has in it `limited`, `unreachable` and `missed`. */
export interface SwitchCounters extends PortCounters {
  /** Frames of this port that went to all others. */
  readonly flooded: number;
  /** … that would have, but were too many. */
  readonly limited: number;
  /** … that are for this port itself, for another isolated one, or for bridges only. */
  readonly filtered: number;
  /** Frames from or to this port whose buffers are not in the window. */
  readonly unreachable: number;
  /** Frames for this port that found its inbox full. */
  readonly missed: number;
  /** Addresses that were new behind this port; of these, those that another port had before; those that it has now. */
  readonly learned: number;
  readonly moved: number;
  readonly addresses: number;
}

export interface SwitchPort extends PortHandle {
  counters(): SwitchCounters;
  useLanes(n: number): void;
  setOffloads(offloads: number): void;
}

/** A port as its switch knows it. */
interface Member {
  readonly number: number;
  readonly piece: number;
  readonly lanes: readonly PortDescriptor[];
  readonly eventfds: readonly EventFd[];
}

const switches = new WeakMap<Window, Map<string, Switch>>();

/** A new port of the switch of that name, which begins with its first port. Throws PortError PORT_OPEN when it has as many as can be; MemoryError; LinuxError. */
export function joinSwitch(name: string, host: PortHost, options: MemberOptions): SwitchPort {
  let named = switches.get(host.window);
  if (!named) switches.set(host.window, (named = new Map()));
  const there = named.get(name);
  const joined = there ?? new Switch(name, host);
  named.set(name, joined);
  try {
    return joined.join(options, () => named.delete(name));
  } catch (error) {
    if (!there) joined.end(() => named.delete(name));
    throw error;
  }
}

class Switch {
  readonly #name: string;
  readonly #host: PortHost;
  readonly #calls: DatapathExports;
  readonly #table: number;
  readonly #members: (Member | undefined)[] = [];

  constructor(name: string, host: PortHost) {
    this.#name = name;
    this.#host = host;
    this.#calls = loadDatapath(host.window).calls;
    this.#table = host.arena.allocate(L.SWITCH_SIZE);
    const secret = randomBytes(8);
    secret[0]! |= 1;
    host.window.bytes.set(secret, this.#table + L.SWITCH_SECRET);
  }

  /** `forget` is called when the last port has left. */
  join(options: MemberOptions, forget: () => void): SwitchPort {
    const { window } = this.#host;
    const number = Array.from({ length: L.SWITCH_MAX_PORTS }, (_, i) => i).find(i => !this.#members[i]);
    if (number === undefined) {
      throw new PortError('PORT_OPEN', `switch ${this.#name}: it has ${L.SWITCH_MAX_PORTS} ports already`);
    }
    const member = this.#make(number, options);
    this.#members[number] = member;
    const { piece, lanes } = member;
    Atomics.store(window.words, this.#slot(number), piece); // from here on others can reach it
    return {
      lanes,
      counters: () => this.#count(member),
      useLanes: n =>
        void Atomics.store(
          window.words,
          (piece + L.MEMBER_LANES) >>> 2,
          Math.max(1, Math.min(n, lanes.length)),
        ),
      setOffloads: offloads => {
        for (const { state } of lanes) window.words[(state + L.PORT_OFFLOADS) >>> 2] = offloads;
      },
      close: () => {
        this.#leave(member);
        if (this.#members.every(other => other === undefined)) this.end(forget);
      },
    };
  }

  end(forget: () => void): void {
    forget();
    this.#host.arena.free(this.#table);
  }

  /** Allocates a port and fills in what its workers and those of others need to know. */
  #make(number: number, { isolated, macAge, lanes: count, limits }: MemberOptions): Member {
    const { window, arena } = this.#host;
    const bytes = Math.max(limits.laneBytes, limits.inboxBytes / count);
    const blocks = 2 ** Math.floor(Math.log2(bytes / L.INBOX_BLOCK));
    const inboxBytes = L.INBOX_SIZE + blocks * (4 + L.INBOX_BLOCK);
    const inLines = (size: number) => Math.ceil(size / 64) * 64;
    const head = inLines(L.MEMBER_SIZE + 4 * limits.addresses);
    const inboxSize = inLines(inboxBytes);
    const piece = arena.allocate(head + count * (LANE_BYTES + inboxSize));
    const eventfds: EventFd[] = [];
    try {
      for (let i = 0; i < count; i++)
        eventfds.push(EventFd.create(`switch ${this.#name}: port ${number}.${i}`));
    } catch (error) {
      for (const eventfd of eventfds) eventfd.close();
      arena.free(piece);
      throw error;
    }
    const set = (address: number, value: number) => {
      window.words[address >>> 2] = value;
    };
    const setLong = (address: number, value: number) => {
      window.longs[address / 8] = BigInt(Math.round(value));
    };
    set(piece + L.MEMBER_NUMBER, number);
    set(piece + L.MEMBER_ISOLATED, isolated ? 1 : 0);
    set(piece + L.MEMBER_LANES, count);
    set(piece + L.MEMBER_AGE, macAge);
    set(piece + L.MEMBER_SHARE, limits.addresses);
    setLong(piece + L.MEMBER_FLOOD_INTERVAL, NS_PER_SECOND / limits.floodRate);
    setLong(piece + L.MEMBER_FLOOD_BURST, (NS_PER_SECOND * limits.floodBurst) / limits.floodRate);
    const lanes = eventfds.map(({ fd }, i): PortDescriptor => {
      const state = piece + head + i * LANE_BYTES;
      const inbox = piece + head + count * LANE_BYTES + i * inboxSize;
      set(piece + L.MEMBER_INBOXES + 4 * i, inbox);
      set(state + L.SWLANE_SWITCH, this.#table);
      set(state + L.SWLANE_MEMBER, piece);
      set(state + L.SWLANE_INBOX, inbox);
      prepareInlet(window, state + INLET);
      set(inbox + L.INBOX_DATA, inbox + L.INBOX_SIZE);
      set(inbox + L.INBOX_BLOCKS, blocks);
      set(inbox + L.INBOX_MARKS, inbox + L.INBOX_SIZE + blocks * L.INBOX_BLOCK);
      set(inbox + L.INBOX_FD, fd);
      // As if its owner had looked and found nothing.
      set(inbox + L.INBOX_ASKED, 1);
      set(inbox + L.INBOX_ARMED, 1);
      return { kind: 'switch', name: this.#name, state, fds: [fd], options: {} };
    });
    return { number, piece, lanes, eventfds };
  }

  /** Its own workers don't use it any more; those of others may, until they have been seen elsewhere. */
  #leave({ number, piece, eventfds }: Member): void {
    const { window, arena } = this.#host;
    Atomics.store(window.words, this.#slot(number), 0);
    this.#members[number] = undefined;
    const others = this.#members.flatMap(member => member?.lanes ?? []);
    const abandoned = others.filter(({ state }) => !passes(window, state));
    this.#calls.switch_forget(this.#table, number);
    // A worker that stopped in the middle may still hold addresses and descriptors: they stay, so that they mean nothing else.
    if (abandoned.length > 0) return;
    for (const eventfd of eventfds) eventfd.close();
    arena.free(piece);
  }

  #count({ piece, lanes }: Member): SwitchCounters {
    const { window } = this.#host;
    const sum = (field: number) =>
      lanes.reduce((n, { state }) => n + window.doubles[(state + field) / 8]!, 0);
    const missed = lanes.reduce((n, { state }) => {
      const inbox = window.words[(state + L.SWLANE_INBOX) >>> 2]!;
      return n + Number(Atomics.load(window.longs, (inbox + L.INBOX_MISSED) / 8));
    }, 0);
    const common = readCounters(window, lanes);
    const limited = sum(L.SWLANE_LIMITED);
    const unreachable = sum(L.SWLANE_UNREACHABLE);
    return {
      ...common,
      dropped: common.dropped + limited + unreachable + missed,
      flooded: sum(L.SWLANE_FLOODED),
      limited,
      filtered: sum(L.SWLANE_FILTERED),
      unreachable,
      missed,
      learned: sum(L.SWLANE_LEARNED) + sum(L.SWLANE_MOVED),
      moved: sum(L.SWLANE_MOVED),
      addresses: this.#calls.switch_addresses(piece),
    };
  }

  #slot(number: number): number {
    return (this.#table + L.SWITCH_PORTS + 4 * number) >>> 2;
  }
}

/** Waits until a lane that is using other ports has stopped doing so. False: it does not. */
function passes({ memory }: Window, lane: number): boolean {
  const words = new Int32Array(memory.buffer);
  const index = (lane + L.SWLANE_EPOCH) >>> 2;
  const epoch = Atomics.load(words, index);
  if (epoch % 2 === 0) return true;
  const end = performance.now() + PATIENCE_MS;
  while (Atomics.load(words, index) === epoch) {
    if (performance.now() > end) return false;
    Atomics.wait(words, index, epoch, 1);
  }
  return true;
}
