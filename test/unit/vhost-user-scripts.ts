/**
 * What real front ends say, in their order: conversations as data, for any backend.
 *
 * A step is a request, its fields, and what comes back: nothing, a reply (`get`), or an acknowledgement (`ack`). `fd` stands for one eventfd, `memory` for
 * one file of guest memory per region, `socket` for the backend's own channel.
 */
import type { RequestName, RequestValues } from '../../src/control/vhost-user/index.js';

export type Attached = 'fd' | 'memory' | 'socket';

export interface Step<N extends RequestName = RequestName> {
  readonly name: N;
  readonly values: RequestValues<N>;
  readonly fds?: readonly Attached[];
  readonly how?: 'get' | 'ack';
}

const step = <N extends RequestName>(name: N, values: RequestValues<N>, more: Partial<Step> = {}): Step =>
  ({ name, values, ...more }) as Step;
const get = <N extends RequestName>(name: N, values: RequestValues<N>): Step =>
  step(name, values, { how: 'get' });
const pair = (of: number): number[] => [2 * of, 2 * of + 1];

const call = (index: number): Step => step('SET_VRING_CALL', { value: BigInt(index) }, { fds: ['fd'] });
const error = (index: number): Step => step('SET_VRING_ERR', { value: BigInt(index) }, { fds: ['fd'] });
const kick = (index: number): Step => step('SET_VRING_KICK', { value: BigInt(index) }, { fds: ['fd'] });
const enable = (index: number, num: number): Step => step('SET_VRING_ENABLE', { index, num });
const stop = (index: number): Step => get('GET_VRING_BASE', { index, num: 0 });

/** Where a script has its memory and rings. */
export interface Place {
  readonly features: bigint;
  readonly regions: readonly RequestValues<'SET_MEM_TABLE'>['each'][number][];
  readonly size: number;
  readonly base: number;
  /** By vring: addresses as the front end sees them. */
  readonly ring: (index: number) => { descriptor: bigint; used: bigint; available: bigint };
}

const ring = (place: Place, index: number): Step[] => [
  step('SET_VRING_NUM', { index, num: place.size }),
  step('SET_VRING_BASE', { index, num: place.base }),
  step('SET_VRING_ADDR', { index, flags: 0, ...place.ring(index), logGuestAddress: 0n }),
  kick(index),
];

/** QEMU, when it gets hold of the socket: per queue pair. Protocol features that it takes: by version. */
function qemuConnect(pairs: number, protocol: bigint, backendRequests: boolean): Step[] {
  const hello = [
    get('GET_FEATURES', {}),
    get('GET_PROTOCOL_FEATURES', {}),
    step('SET_PROTOCOL_FEATURES', { value: protocol }),
  ];
  return [
    ...hello,
    get('GET_QUEUE_NUM', {}),
    get('GET_MAX_MEM_SLOTS', {}),
    ...(backendRequests ? [step('SET_BACKEND_REQ_FD', {}, { fds: ['socket'], how: 'ack' })] : []),
    step('SET_OWNER', {}),
    get('GET_FEATURES', {}),
    ...pair(0).flatMap(index => [call(index), error(index)]),
    ...Array.from({ length: pairs - 1 }, (_, i) => [
      ...hello,
      get('GET_FEATURES', {}),
      ...pair(i + 1).flatMap(index => [call(index), error(index)]),
    ]).flat(),
  ];
}

const QEMU_7_PROTOCOL = 0xa03fn; // without CONFIG
const WITH_PROTOCOL = 1n << 30n;

/** QEMU 7.2: connects, resets, starts, stops. Regions one by one, and all of them once for each pair. */
export function qemu7(place: Place, pairs = 1): Record<'connect' | 'reset' | 'start' | 'stop', Step[]> {
  const rings = Array.from({ length: 2 * pairs }, (_, i) => i);
  return {
    connect: qemuConnect(pairs, QEMU_7_PROTOCOL, true),
    reset: rings.map(index => enable(index, index < 2 ? 1 : 0)),
    start: [
      ...rings.map(index => enable(index, 1)),
      step('SET_FEATURES', { value: place.features | WITH_PROTOCOL }),
      ...Array.from({ length: pairs }, () =>
        place.regions.map(region =>
          step('ADD_MEM_REG', { pad: 0n, ...region }, { fds: ['memory'], how: 'ack' }),
        ),
      ).flat(),
      ...rings.flatMap(index => [...ring(place, index), call(index)]),
    ],
    stop: rings.map(stop),
  };
}

/** QEMU 11.1: RESET_DEVICE at each virtio reset, more acknowledgements, SET_FEATURES for each pair. */
export function qemu11(place: Place, pairs = 1): Record<'connect' | 'reset' | 'start' | 'stop', Step[]> {
  const rings = Array.from({ length: 2 * pairs }, (_, i) => i);
  const acked = new Set<RequestName>([
    'SET_VRING_ENABLE',
    'SET_VRING_KICK',
    'SET_VRING_CALL',
    'SET_VRING_ERR',
  ]);
  const asked = (steps: Step[]): Step[] =>
    steps.map(one => (acked.has(one.name) ? { ...one, how: 'ack' as const } : one));
  return {
    connect: asked(qemuConnect(pairs, QEMU_7_PROTOCOL, true)),
    reset: [step('RESET_DEVICE', {}), ...asked(rings.map(index => enable(index, index < 2 ? 1 : 0)))],
    start: [
      ...asked(rings.map(index => enable(index, 1))),
      ...Array.from({ length: pairs }, (_, i) => [
        step('SET_FEATURES', { value: place.features | WITH_PROTOCOL }),
        ...(i > 0
          ? []
          : place.regions.map(region =>
              step('ADD_MEM_REG', { pad: 0n, ...region }, { fds: ['memory'], how: 'ack' as const }),
            )),
        ...asked(pair(i).flatMap(index => [...ring(place, index), call(index)])),
      ]).flat(),
      ...(pairs > 1 ? asked(rings.map(index => enable(index, 1))) : []),
    ],
    stop: rings.map(stop),
  };
}

/** DPDK's virtio-user: all interrupts first, one table, guest addresses are its own; packed rings start at 0x8000. */
export function dpdk(place: Place, pairs = 1): Record<'connect' | 'start' | 'stop', Step[]> {
  const rings = Array.from({ length: 2 * pairs }, (_, i) => i);
  return {
    connect: [
      step('SET_OWNER', {}),
      get('GET_FEATURES', {}),
      get('GET_PROTOCOL_FEATURES', {}),
      step('SET_PROTOCOL_FEATURES', { value: 0x9n }),
    ],
    start: [
      ...rings.map(call),
      step('SET_FEATURES', { value: place.features | WITH_PROTOCOL }),
      step(
        'SET_MEM_TABLE',
        { count: place.regions.length, each: place.regions },
        {
          fds: place.regions.map(() => 'memory' as const),
          how: 'ack',
        },
      ),
      ...rings.flatMap(index => ring(place, index)),
      ...pair(0).map(index => enable(index, 1)),
    ],
    stop: [...rings.map(index => enable(index, 0)), ...rings.map(stop)],
  };
}

/** One that knows no protocol features: no enabling, a table, rings run at once. */
export function plain(place: Place): Record<'connect' | 'start' | 'stop', Step[]> {
  return {
    connect: [get('GET_FEATURES', {}), step('SET_OWNER', {})],
    start: [
      step('SET_FEATURES', { value: place.features }),
      step(
        'SET_MEM_TABLE',
        { count: place.regions.length, each: place.regions },
        {
          fds: place.regions.map(() => 'memory' as const),
        },
      ),
      ...pair(0).flatMap(index => [...ring(place, index), call(index)]),
    ],
    stop: pair(0).map(stop),
  };
}
