/**
 * One client's conversation: what was agreed on, and what each of its commands is to the function. Those that change the function's memory are for
 * server-memory.ts.
 */
import { ERRNO } from '../../linux/errors.js';
import type { OwnedFd } from '../../linux/fd.js';
import { NUM_IRQS, NUM_REGIONS } from '../../linux/vfio-numbers.js';
import type { PciFunction, RegionShape } from '../../pci/function.js';
import { decodeLayout, encodeLayout, layoutSize } from '../bpfhv-proxy/layout.js';
import { VfioUserError } from './errors.js';
import { type InTurn, Irqs } from './irqs.js';
import { type Command, type CommandValues, encodeReply } from './messages.js';
import {
  COMMANDS,
  DEVICE,
  FEATURE_FLAG,
  IO_FD,
  IO_FD_TYPE,
  MAX_FDS,
  MULTI_WRITE,
  REGION_FLAG,
} from './requests.js';
import { type Capabilities, decodeCapabilities, encodeCapabilities, VERSION } from './version.js';

/** Writes in one REGION_WRITE_MULTI. QEMU has at most 200. */
const MAX_WRITES = 1024;

export interface Reply {
  readonly bytes: Uint8Array;
  /** To go with it; they stay the function's. */
  readonly fds: readonly OwnedFd[];
}

type MemoryCommand = 'DMA_MAP' | 'DMA_UNMAP';
/** The commands that this file carries out. */
export type SessionCommand = Exclude<Command, { readonly name: MemoryCommand }>;

export class ServerSession {
  readonly #fn: PciFunction;
  readonly #irqs: Irqs;
  readonly #offered: Capabilities;
  #agreed: Capabilities | null = null;

  /** `offered`: what this server can do. */
  constructor(fn: PciFunction, inTurn: InTurn, offered: Capabilities) {
    this.#fn = fn;
    this.#irqs = new Irqs(fn, inTurn);
    this.#offered = offered;
  }

  /** What holds for both sides, `maxMsgFds` for what the client receives; null before a version is agreed on. */
  get agreed(): Capabilities | null {
    return this.#agreed;
  }

  /** Throws VfioUserError VFIO_VERSION when it is not yet, or no longer, the time for that command. */
  check(name: Command['name']): void {
    if ((name === 'VERSION') === (this.#agreed === null)) return;
    throw new VfioUserError('VFIO_VERSION', `${name}: a version is ${this.#agreed ? '' : 'not '}agreed on`);
  }

  /** Carries out one command, whose fds are this session's from now on. Throws VfioUserError, and what the function throws. */
  async carryOut({ name, values, tail, fds }: SessionCommand, id: number): Promise<Reply> {
    const fn = this.#fn;
    switch (name) {
      case 'VERSION':
        return reply(encodeReply(name, id, VERSION_REPLY, this.#agree(values, tail)));
      case 'GET_INFO': {
        const flags = DEVICE.RESET | DEVICE.PCI;
        const counts = { numRegions: NUM_REGIONS, numIrqs: NUM_IRQS };
        return reply(encodeReply(name, id, { argsz: layoutSize(COMMANDS[name].reply), flags, ...counts }));
      }
      case 'GET_REGION_INFO': {
        const { size, readable, writable } = this.#region(name, values.index);
        const flags = (readable ? REGION_FLAG.READ : 0) | (writable ? REGION_FLAG.WRITE : 0);
        return reply(
          encodeReply(name, id, {
            ...{ argsz: layoutSize(COMMANDS[name].reply), flags: size === 0 ? 0 : flags },
            ...{ index: values.index, capOffset: 0, size: BigInt(size), offset: 0n },
          }),
        );
      }
      case 'GET_REGION_IO_FDS':
        return this.#ioFds(values, id);
      case 'GET_IRQ_INFO': {
        const argsz = layoutSize(COMMANDS[name].reply);
        return reply(encodeReply(name, id, { argsz, index: values.index, ...this.#irqs.info(values.index) }));
      }
      case 'SET_IRQS':
        await this.#irqs.set(values, tail, fds);
        return reply(encodeReply(name, id, {}));
      case 'REGION_READ': {
        const { offset, region, count } = values;
        const at = this.#range(name, values, 'readable');
        const data = new Uint8Array(count);
        if (count > 0) await fn.read(region, at, data);
        return reply(encodeReply(name, id, { offset, region, count }, data));
      }
      case 'REGION_WRITE': {
        const at = this.#range(name, values, 'writable');
        if (tail.length !== values.count) {
          throw new VfioUserError('VFIO_SIZE', `${name}: ${tail.length} bytes of data, not ${values.count}`);
        }
        if (tail.length > 0) await fn.write(values.region, at, tail);
        return reply(encodeReply(name, id, values));
      }
      case 'REGION_WRITE_MULTI':
        await this.#writeMulti(values.count, tail);
        return reply(encodeReply(name, id, values));
      case 'DEVICE_RESET':
        await fn.reset();
        return reply(encodeReply(name, id, {}));
      case 'DEVICE_FEATURE':
        throw noFeature(values.flags);
      default:
        // Nothing of the function's can be saved.
        throw new VfioUserError('VFIO_COMMAND', `${name} is not served`, { errno: ERRNO.EOPNOTSUPP! });
    }
  }

  /** The client is gone. */
  close(): void {
    this.#irqs.close();
  }

  /** Returns what this side states. */
  #agree({ major, minor }: CommandValues<'VERSION'>, text: Uint8Array): Uint8Array {
    if (major !== VERSION.MAJOR) {
      throw new VfioUserError('VFIO_VERSION', `VERSION: ${major}.${minor} is not spoken here`);
    }
    const theirs = decodeCapabilities(text);
    const mine = {
      ...this.#offered,
      maxDataXferSize: Math.min(theirs.maxDataXferSize, this.#offered.maxDataXferSize),
      maxDmaMaps: Math.min(theirs.maxDmaMaps, this.#offered.maxDmaMaps),
    };
    this.#agreed = { ...mine, maxMsgFds: Math.min(theirs.maxMsgFds, MAX_FDS) };
    return encodeCapabilities(mine);
  }

  #region(name: string, index: number): RegionShape {
    if (index < NUM_REGIONS) return this.#fn.regions[index]!;
    throw new VfioUserError('VFIO_VALUE', `${name}: there is no region ${index}`);
  }

  /** Where an access begins, if it is one that the region has. */
  #range(
    name: string,
    { region, offset, count }: CommandValues<'REGION_READ'>,
    right: 'readable' | 'writable',
  ): number {
    const shape = this.#region(name, region);
    const most = this.#agreed!.maxDataXferSize;
    if (count > most) throw new VfioUserError('VFIO_VALUE', `${name}: ${count} bytes, at most ${most}`);
    if (shape[right] && offset + BigInt(count) <= BigInt(shape.size)) return Number(offset);
    const where = `${count} bytes at 0x${offset.toString(16)} of region ${region}`;
    throw new VfioUserError('VFIO_VALUE', `${name}: ${where}, which has ${shape.size}, is not ${right}`);
  }

  /** All of them, or none when one can't be. */
  async #writeMulti(count: bigint, tail: Uint8Array): Promise<void> {
    const name = 'REGION_WRITE_MULTI';
    const size = layoutSize(MULTI_WRITE);
    if (count > MAX_WRITES) {
      throw new VfioUserError('VFIO_VALUE', `${name}: ${count} writes, at most ${MAX_WRITES}`);
    }
    if (tail.length !== Number(count) * size) {
      throw new VfioUserError('VFIO_SIZE', `${name}: ${tail.length} bytes for ${count} writes of ${size}`);
    }
    const writes = Array.from({ length: Number(count) }, (_, i) => {
      const entry = tail.subarray(i * size, (i + 1) * size);
      const write = decodeLayout(MULTI_WRITE, entry);
      if (write.count > 8) throw new VfioUserError('VFIO_VALUE', `${name}: a write of ${write.count} bytes`);
      const at = this.#range(name, write, 'writable');
      return { region: write.region, at, bytes: entry.subarray(size - 8, size - 8 + write.count) };
    });
    for (const { region, at, bytes } of writes) {
      if (bytes.length > 0) await this.#fn.write(region, at, bytes);
    }
  }

  /** Doorbells whose eventfds the client can receive; the others have to be written to. */
  #ioFds({ argsz: room, flags, index }: CommandValues<'GET_REGION_IO_FDS'>, id: number): Reply {
    const name = 'GET_REGION_IO_FDS';
    this.#region(name, index);
    if (flags !== 0) throw new VfioUserError('VFIO_VALUE', `${name}: flags 0x${flags.toString(16)}`);
    const fds: OwnedFd[] = [];
    const entries: Uint8Array[] = [];
    for (const { offset, size, fd } of this.#fn.doorbells(index)) {
      if (!fds.includes(fd)) {
        if (fd.closed || fds.length >= this.#agreed!.maxMsgFds) continue;
        fds.push(fd);
      }
      entries.push(
        encodeLayout(IO_FD, {
          ...{ offset: BigInt(offset), size: BigInt(size), fdIndex: fds.indexOf(fd) },
          ...{ type: IO_FD_TYPE.IOEVENTFD, flags: 0, datamatch: 0n },
        }),
      );
    }
    const argsz = layoutSize(COMMANDS[name].reply) + entries.length * layoutSize(IO_FD);
    const head = { argsz, flags: 0, index, count: entries.length };
    // Who has no room for them learns how much it takes.
    if (room < argsz) return reply(encodeReply(name, id, head));
    return { bytes: encodeReply(name, id, head, Buffer.concat(entries)), fds };
  }
}

const VERSION_REPLY = { major: VERSION.MAJOR, minor: VERSION.MINOR };

function reply(bytes: Uint8Array): Reply {
  return { bytes, fds: [] };
}

/** As VFIO says it: what is asked makes no sense, or there is no such feature. */
function noFeature(flags: number): VfioUserError {
  const { NUMBER, GET, SET, PROBE } = FEATURE_FLAG;
  const how = flags & (GET | SET | PROBE);
  const senseless = (flags & ~(NUMBER | GET | SET | PROBE)) !== 0 || how === 0 || how === (GET | SET);
  const text = `DEVICE_FEATURE: flags 0x${flags.toString(16)}`;
  return senseless
    ? new VfioUserError('VFIO_VALUE', text)
    : new VfioUserError('VFIO_COMMAND', text, { errno: ERRNO.ENOTTY! });
}
