/** What vfio-user clients say, in short: fields of commands, and a conversation in which everything occurs. */
import {
  type CommandName,
  type CommandValues,
  DMA,
  encodeCommand,
  FEATURE_FLAG,
} from '../../src/control/vfio-user/index.js';
import type { OwnedFd } from '../../src/linux/fd.js';
import { createMemfd } from '../../src/linux/memfd.js';
import { IRQ, REGION } from '../../src/linux/vfio-numbers.js';
import { anFd } from './vfio-user-peer.js';

type Size = number | bigint;

export const map = (
  address: Size,
  size: Size,
  offset: Size = 0,
  flags = DMA.READ | DMA.WRITE,
): CommandValues<'DMA_MAP'> => ({
  ...{ argsz: 32, flags, offset: BigInt(offset) },
  ...{ address: BigInt(address), size: BigInt(size) },
});

export const unmap = (address: Size, size: Size, flags = 0): CommandValues<'DMA_UNMAP'> => ({
  ...{ argsz: 24, flags, address: BigInt(address), size: BigInt(size) },
});

export const irqs = (
  flags: number,
  index: number,
  start: number,
  count: number,
): CommandValues<'SET_IRQS'> => ({ argsz: 20, flags, index, start, count });

/** Where a region is read or written. */
export const at = (region: number, offset: Size, count: number): CommandValues<'REGION_READ'> => ({
  ...{ offset: BigInt(offset), region, count },
});

export const info = (index: number): CommandValues<'GET_REGION_INFO'> => ({
  ...{ argsz: 32, flags: 0, index, capOffset: 0, size: 0n, offset: 0n },
});

export const u32 = (...words: number[]): Uint8Array => new Uint8Array(Uint32Array.from(words).buffer);

export const memory = (size = 1 << 20, name = 'ram'): OwnedFd => createMemfd({ name, size });

/** One command. */
export interface Said {
  readonly bytes: Uint8Array;
  /** The descriptors that belong to it; a new one of each for each time it is said. */
  readonly fds: readonly (() => OwnedFd)[];
}

function said<N extends CommandName>(
  name: N,
  values: CommandValues<N>,
  { tail, fds = [] }: { tail?: Uint8Array; fds?: Said['fds'] } = {},
): Said {
  return { bytes: encodeCommand(name, values, tail), fds };
}

/** In an order in which all of it works. */
export const CONVERSATION: readonly Said[] = [
  said('VERSION', { major: 0, minor: 0 }, { tail: Buffer.from('{"capabilities":{"max_msg_fds":8}}\0') }),
  said('DMA_MAP', map(0, 1 << 20), { fds: [memory] }),
  said('DMA_MAP', map(1 << 20, 4096)),
  said('GET_INFO', { argsz: 16, flags: 0, numRegions: 0, numIrqs: 0 }),
  said('GET_REGION_INFO', info(0)),
  said('GET_REGION_IO_FDS', { argsz: 4096, flags: 0, index: 0, count: 0 }),
  said('GET_IRQ_INFO', { argsz: 16, flags: 0, index: 2, count: 0 }),
  said('REGION_READ', at(REGION.CONFIG, 0, 256)),
  said('SET_IRQS', irqs(0x24, IRQ.INTX, 0, 1), { fds: [anFd] }),
  said('SET_IRQS', irqs(0x14, IRQ.INTX, 0, 1), { fds: [anFd] }),
  said('SET_IRQS', irqs(0x11, IRQ.INTX, 0, 1)),
  said('SET_IRQS', irqs(0x24, IRQ.MSIX, 3, 3), { fds: [anFd, anFd, anFd] }),
  said('SET_IRQS', irqs(0x22, IRQ.MSIX, 3, 3), { tail: Uint8Array.of(1, 0, 1) }),
  said('REGION_WRITE', at(REGION.BAR0, 0, 4), { tail: u32(1) }),
  said('REGION_WRITE_MULTI', { count: 1n }, { tail: u32(16, 0, REGION.BAR0, 4, 7, 0) }),
  said('DMA_UNMAP', unmap(0, 1 << 20)),
  said('SET_IRQS', irqs(0x21, IRQ.MSIX, 0, 0)),
  said('DEVICE_RESET', {}),
];

/** What is refused, here. */
export const REFUSED: readonly Said[] = [
  said('DEVICE_FEATURE', { argsz: 16, flags: 1 | FEATURE_FLAG.GET }),
  said('MIG_DATA_READ', { argsz: 4104, size: 4096 }),
  said('MIG_DATA_WRITE', { argsz: 16, size: 8 }, { tail: u32(1, 2) }),
  said('DMA_READ', { address: 0n, count: 16n }),
  said('DMA_WRITE', { address: 0n, count: 4n }, { tail: u32(3) }),
];
