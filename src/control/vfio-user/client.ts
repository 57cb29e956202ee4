/**
 * The client's end: typed commands to a server, many of which may be under way. It drives other people's servers as well as our own.
 *
 * The server is not trusted: a reply that is late, of the wrong kind, size or contents, or that nobody asked for, ends the connection.
 */
import type { OwnedFd } from '../../linux/fd.js';
import type { Channel } from '../bpfhv-proxy/channel.js';
import { encodeLayout, layoutSize } from '../bpfhv-proxy/layout.js';
import { type Attached, ClientConnection, type VfioClientOptions } from './client-connection.js';
import { VfioUserError, type VfioUserErrorCode } from './errors.js';
import { decodeIoFds, type IoFd } from './io-fds.js';
import type { CommandName, CommandValues, Reply, ReplyValues } from './messages.js';
import { decodeRegionInfo, type RegionInfo } from './region-info.js';
import { COMMANDS, DMA, IRQ_SET, MAX_FDS, MULTI_WRITE, UNMAP_ALL } from './requests.js';
import {
  type Capabilities,
  DEFAULT_CAPABILITIES,
  decodeCapabilities,
  encodeCapabilities,
  transferSize,
  VERSION,
} from './version.js';

/** Longer descriptions of a region are not asked for. Bytes. */
const MAX_INFO = 65536;

export interface DmaMapping {
  readonly iova: bigint;
  /** Bytes. */
  readonly size: bigint;
  /** Null: the server can reach it by messages only. */
  readonly fd: OwnedFd | null;
  /** Where it begins in the file; default 0. */
  readonly offset?: bigint;
  /** Default true. */
  readonly writable?: boolean;
}

export interface RegionWrite {
  readonly region: number;
  readonly offset: number;
  /** At most 8. */
  readonly bytes: Uint8Array;
}

/**
 * One connected server. All methods throw VfioUserError; after any but `VFIO_REFUSED` the connection is closed. File descriptors passed in stay the
 * caller's, and must be open until the method resolves. Calls may overlap: commands go out in the order of the calls.
 */
export class VfioUserClient {
  /** What the server stated. `maxMsgFds` is what it receives. */
  readonly capabilities: Capabilities;
  readonly #connection: ClientConnection;

  private constructor(connection: ClientConnection, capabilities: Capabilities) {
    this.#connection = connection;
    this.capabilities = capabilities;
  }

  /** Agrees on a version. Owns the channel from now on. */
  static async connect(channel: Channel, options: VfioClientOptions = {}): Promise<VfioUserClient> {
    const maxDataXferSize = transferSize(options.maxDataXferSize);
    const mine = { ...DEFAULT_CAPABILITIES, maxMsgFds: MAX_FDS, maxDataXferSize, writeMultiple: true };
    const connection = new ClientConnection(channel, { ...options, maxDataXferSize });
    try {
      const { MAJOR: major, MINOR: minor } = VERSION;
      const { values, tail } = await connection.ask(
        'VERSION',
        { major, minor },
        { tail: encodeCapabilities(mine) },
      );
      if (values!.major !== major || values!.minor > minor) {
        throw new VfioUserError('VFIO_VERSION', `the server speaks ${values!.major}.${values!.minor}`);
      }
      const theirs = decodeCapabilities(tail);
      // Interrupts and memory could not be had from it.
      if (theirs.maxMsgFds === 0) throw new VfioUserError('VFIO_FDS', 'the server takes no file descriptors');
      const most = Math.min(theirs.maxDataXferSize, maxDataXferSize);
      return new VfioUserClient(connection, { ...theirs, maxDataXferSize: most });
    } catch (error) {
      throw error instanceof VfioUserError ? connection.fail(error) : error;
    }
  }

  /** Resolves when the connection is over: with null when the server closed it or close() was called, else with the reason. */
  get closed(): Promise<VfioUserError | null> {
    return this.#connection.closed;
  }

  async getInfo(): Promise<{ flags: number; numRegions: number; numIrqs: number }> {
    const argsz = layoutSize(COMMANDS.GET_INFO.request);
    const { flags, numRegions, numIrqs } = await this.#ask('GET_INFO', {
      ...{ argsz, flags: 0, numRegions: 0, numIrqs: 0 },
    });
    return { flags, numRegions, numIrqs };
  }

  /** The fd in it is the caller's. */
  getRegionInfo(index: number): Promise<RegionInfo> {
    const ask = { flags: 0, index, capOffset: 0, size: 0n, offset: 0n };
    return this.#askWhole('GET_REGION_INFO', ask, ({ values, tail, fds }) =>
      decodeRegionInfo(index, values!, tail, fds),
    );
  }

  /** The fds are the caller's. */
  getIoFds(index: number): Promise<{ entries: IoFd[]; fds: readonly OwnedFd[] }> {
    return this.#askWhole('GET_REGION_IO_FDS', { flags: 0, index, count: 0 }, ({ values, tail, fds }) => ({
      entries: decodeIoFds(values!, tail, fds.length),
      fds,
    }));
  }

  async getIrqInfo(index: number): Promise<{ flags: number; count: number }> {
    const argsz = layoutSize(COMMANDS.GET_IRQ_INFO.request);
    const { flags, count, ...reply } = await this.#ask('GET_IRQ_INFO', { argsz, flags: 0, index, count: 0 });
    if (reply.index !== index) throw this.#failed(wrong('GET_IRQ_INFO', `of kind ${reply.index}`));
    return { flags, count };
  }

  /** `data`: an octet for each interrupt, with DATA_BOOL; `fds`: one for each, or none, with DATA_EVENTFD. */
  async setIrqs(
    values: Omit<CommandValues<'SET_IRQS'>, 'argsz'>,
    { data, fds = [] }: { data?: Uint8Array; fds?: readonly OwnedFd[] } = {},
  ): Promise<void> {
    if (fds.length > this.capabilities.maxMsgFds) throw new RangeError(`${fds.length} file descriptors`);
    const argsz = layoutSize(COMMANDS.SET_IRQS.request) + (data?.length ?? 0);
    await this.#connection.ask('SET_IRQS', { argsz, ...values }, { tail: data, fds });
  }

  /** Connects interrupts, from `start` on, to these eventfds, as many at a time as a message takes. */
  async connectIrqs(index: number, start: number, eventfds: readonly OwnedFd[]): Promise<void> {
    const flags = IRQ_SET.DATA_EVENTFD | IRQ_SET.TRIGGER;
    const step = Math.min(this.capabilities.maxMsgFds, MAX_FDS);
    for (let at = 0; at < eventfds.length; at += step) {
      const fds = eventfds.slice(at, at + step);
      await this.setIrqs({ flags, index, start: start + at, count: fds.length }, { fds });
    }
  }

  /** Connects all interrupts of a kind to nothing. */
  async disableIrqs(index: number): Promise<void> {
    await this.setIrqs({ flags: IRQ_SET.DATA_NONE | IRQ_SET.TRIGGER, index, start: 0, count: 0 });
  }

  async dmaMap({ iova, size, fd, offset = 0n, writable = true }: DmaMapping): Promise<void> {
    const argsz = layoutSize(COMMANDS.DMA_MAP.request);
    const flags = DMA.READ | (writable ? DMA.WRITE : 0);
    const fds = fd ? [fd] : [];
    await this.#connection.ask('DMA_MAP', { argsz, flags, offset, address: iova, size }, { fds });
  }

  /** A range that was mapped. */
  async dmaUnmap(iova: bigint, size: bigint): Promise<void> {
    await this.#unmap(0, iova, size);
  }

  /** Everything; not every server knows that. */
  async dmaUnmapAll(): Promise<void> {
    await this.#unmap(UNMAP_ALL, 0n, 0n);
  }

  /** At most as many bytes as the capabilities say. */
  async regionRead(region: number, offset: number, count: number): Promise<Uint8Array> {
    const ask = { offset: BigInt(offset), region, count };
    const { values, tail } = await this.#connection.ask('REGION_READ', ask);
    this.#checkAccess('REGION_READ', ask, values!);
    if (tail.length === count) return tail;
    throw this.#failed(wrong('REGION_READ', `${tail.length} bytes, not ${count}`, 'VFIO_SIZE'));
  }

  /** `posted`: nobody will know whether it worked; resolves when it is on its way. */
  async regionWrite(
    region: number,
    offset: number,
    bytes: Uint8Array,
    { posted = false }: { posted?: boolean } = {},
  ): Promise<void> {
    const ask = { offset: BigInt(offset), region, count: bytes.length };
    if (posted) return this.#connection.post('REGION_WRITE', ask, { tail: bytes });
    const { values } = await this.#connection.ask('REGION_WRITE', ask, { tail: bytes });
    if (values !== null) this.#checkAccess('REGION_WRITE', ask, values);
  }

  /** For servers with `writeMultiple`. */
  async regionWriteMulti(
    writes: readonly RegionWrite[],
    { posted = false }: { posted?: boolean } = {},
  ): Promise<void> {
    const count = BigInt(writes.length);
    const tail = Buffer.concat(writes.map(encodeWrite));
    if (posted) return this.#connection.post('REGION_WRITE_MULTI', { count }, { tail });
    const reply = await this.#ask('REGION_WRITE_MULTI', { count }, { tail });
    if (reply.count !== count) throw this.#failed(wrong('REGION_WRITE_MULTI', `${reply.count} of ${count}`));
  }

  async reset(): Promise<void> {
    await this.#ask('DEVICE_RESET', {});
  }

  /**
   * Probes, gets or sets a feature: `flags` are its number and FEATURE_FLAG bits. Returns what the reply has behind its head, at most `room` bytes. Refused
   * with ENOTTY by a server that has no such feature.
   */
  async deviceFeature(flags: number, data = new Uint8Array(0), room = data.length): Promise<Uint8Array> {
    const head = layoutSize(COMMANDS.DEVICE_FEATURE.request);
    const ask = { argsz: head + room, flags };
    const { values, tail } = await this.#connection.ask('DEVICE_FEATURE', ask, { tail: data });
    if (values!.flags !== flags || tail.length > room) {
      throw this.#failed(wrong('DEVICE_FEATURE', `${tail.length} bytes, flags ${values!.flags}`));
    }
    return tail;
  }

  /** The device's state, piece by piece; a piece that is shorter than `size` is the last one. */
  async migDataRead(size: number): Promise<Uint8Array> {
    const ask = { argsz: layoutSize(COMMANDS.MIG_DATA_READ.reply) + size, size };
    const { values, tail } = await this.#connection.ask('MIG_DATA_READ', ask);
    if (values!.size === tail.length && tail.length <= size) return tail;
    throw this.#failed(wrong('MIG_DATA_READ', `${tail.length} bytes, said to be ${values!.size}`));
  }

  async migDataWrite(bytes: Uint8Array): Promise<void> {
    const argsz = layoutSize(COMMANDS.MIG_DATA_WRITE.request) + bytes.length;
    await this.#ask('MIG_DATA_WRITE', { argsz, size: bytes.length }, { tail: bytes });
  }

  /** Ends the connection; commands under way throw `VFIO_CLOSED`. */
  close(): void {
    this.#connection.close();
  }

  /** For commands whose reply always has its fixed part. */
  async #ask<N extends CommandName>(
    name: N,
    values: CommandValues<N>,
    attached?: Attached,
  ): Promise<ReplyValues<N>> {
    return (await this.#connection.ask(name, values, attached)).values!;
  }

  /** Asks for the fixed part; where there is more to say, once more with room for it. */
  async #askWhole<N extends 'GET_REGION_INFO' | 'GET_REGION_IO_FDS', T>(
    name: N,
    values: Omit<CommandValues<N>, 'argsz'>,
    decode: (reply: Reply<N>) => T,
  ): Promise<T> {
    const fixed = layoutSize(COMMANDS[name].reply);
    for (let argsz = fixed; ; ) {
      const reply = await this.#connection.ask(name, { argsz, ...values } as unknown as CommandValues<N>);
      try {
        const whole = (reply.values as { argsz: number }).argsz;
        if (whole <= fixed + reply.tail.length) return decode(reply);
        if (argsz > fixed || whole > MAX_INFO) throw wrong(name, `${whole} bytes in all`);
        argsz = whole;
      } catch (error) {
        for (const fd of reply.fds) fd.close();
        throw this.#failed(error);
      }
      for (const fd of reply.fds) fd.close();
    }
  }

  async #unmap(flags: number, address: bigint, size: bigint): Promise<void> {
    const argsz = layoutSize(COMMANDS.DMA_UNMAP.request);
    const { values } = await this.#connection.ask('DMA_UNMAP', { argsz, flags, address, size });
    // Some say how much everything was.
    if (values === null || flags !== 0) return;
    if (values.address !== address || values.size !== size) {
      throw this.#failed(wrong('DMA_UNMAP', `${values.size} bytes at 0x${values.address.toString(16)}`));
    }
  }

  #checkAccess(name: CommandName, asked: Access, { offset, region, count }: Access): void {
    if (offset === asked.offset && region === asked.region && count === asked.count) return;
    throw this.#failed(wrong(name, `${count} bytes at 0x${offset.toString(16)} of region ${region}`));
  }

  /** Ends the connection when it was the server that was wrong. */
  #failed(error: unknown): unknown {
    return error instanceof VfioUserError ? this.#connection.fail(error) : error;
  }
}

type Access = CommandValues<'REGION_READ'>;

function encodeWrite({ region, offset, bytes }: RegionWrite): Uint8Array {
  if (bytes.length > 8) throw new RangeError(`a write of ${bytes.length} bytes among many`);
  const entry = encodeLayout(MULTI_WRITE, {
    offset: BigInt(offset),
    region,
    count: bytes.length,
    data: 0n,
  });
  entry.set(bytes, entry.length - 8);
  return entry;
}

function wrong(name: CommandName, what: string, code: VfioUserErrorCode = 'VFIO_VALUE'): VfioUserError {
  return new VfioUserError(code, `the reply to ${name}: ${what}`);
}
