/**
 * One front end's conversation: what it has negotiated, and what each of its requests is to the NIC.
 *
 * Requests come in whatever order the front end likes: QEMU enables rings before it says how large they are, DPDK gives all interrupts first. So each
 * one is kept by the NIC, and a ring runs when it has everything.
 */
import type { OwnedFd } from '../../linux/fd.js';
import type { MemoryRegionSpec } from '../../nic/control.js';
import type { VhostControl } from '../../nic/vhost-control.js';
import { BackendChannel } from './backend-channel.js';
import { VhostUserError } from './errors.js';
import { encodeReply, type Request, type RequestName, type RequestValues } from './messages.js';
import {
  IOTLB,
  IOTLB_PERM,
  NEEDS,
  PROTOCOL_FEATURE,
  PROTOCOL_FEATURES,
  VRING_FD,
  VRING_LOG,
} from './requests.js';

/** What we offer. Not STATUS: some front ends set status 0 before they ask where the rings stand. */
const OFFERED = Object.values(PROTOCOL_FEATURE).reduce((all, one) => all | one);

type Region = RequestValues<'ADD_MEM_REG'>;

export class BackendSession {
  readonly #nic: VhostControl;
  #protocol = 0n;
  #channel: BackendChannel | null = null;

  constructor(nic: VhostControl) {
    this.#nic = nic;
  }

  /** Acknowledgements were agreed on. */
  get acknowledges(): boolean {
    return (this.#protocol & PROTOCOL_FEATURE.REPLY_ACK) !== 0n;
  }

  /** Throws VhostUserError VHOST_REQUEST when the request belongs to something that was not agreed on. */
  check(name: RequestName): void {
    const needed = NEEDS[name] ?? 0n;
    if ((this.#protocol & needed) === needed) return;
    throw new VhostUserError('VHOST_REQUEST', `${name}: its protocol feature was not negotiated`);
  }

  /** Returns the reply, null where there is none. The fds are this session's from now on. Throws what the NIC throws. */
  async carryOut({ name, values, fds }: Request): Promise<Uint8Array | null> {
    const nic = this.#nic;
    switch (name) {
      case 'GET_FEATURES':
        return encodeReply(name, { value: nic.features() | PROTOCOL_FEATURES });
      case 'SET_FEATURES':
        await nic.setFeatures(values.value & ~PROTOCOL_FEATURES, (values.value & PROTOCOL_FEATURES) === 0n);
        return null;
      case 'GET_PROTOCOL_FEATURES':
        return encodeReply(name, { value: OFFERED });
      case 'SET_PROTOCOL_FEATURES':
        if ((values.value & ~OFFERED) !== 0n) {
          throw new VhostUserError(
            'VHOST_VALUE',
            `${name}: 0x${values.value.toString(16)} is not all offered`,
          );
        }
        this.#protocol = values.value;
        return null;
      case 'SET_OWNER':
        return null;
      case 'RESET_OWNER':
      case 'RESET_DEVICE':
        await nic.reset();
        return null;
      case 'GET_QUEUE_NUM':
        return encodeReply(name, { value: BigInt(nic.queuePairs) });
      case 'SET_MEM_TABLE':
        await nic.setMemoryTable(values.each.map((region, i) => regionOf(region, fds[i]!)));
        return null;
      case 'GET_MAX_MEM_SLOTS':
        return encodeReply(name, { value: BigInt(nic.memorySlots) });
      case 'ADD_MEM_REG':
        await nic.addRegion(regionOf(values, fds[0]!));
        return null;
      case 'REM_MEM_REG':
        fds[0]?.close();
        await nic.removeRegion(nameOf(values));
        return null;
      case 'SET_LOG_BASE':
        await nic.setDirtyLog(values.size, values.offset, fds[0]!);
        return encodeReply(name, { value: 0n });
      case 'SET_LOG_FD': // would be signalled when something was marked: who migrates a guest looks by himself
        fds[0]!.close();
        return null;
      case 'SET_VRING_NUM':
        await nic.setVringSize(values.index, values.num);
        return null;
      case 'SET_VRING_ADDR':
        await nic.setVringAddresses(values.index, {
          descriptor: values.descriptor,
          driver: values.available,
          device: values.used,
          log: (values.flags & VRING_LOG) === 0 ? null : values.logGuestAddress,
        });
        return null;
      case 'SET_VRING_BASE':
        await nic.setVringBase(values.index, values.num);
        return null;
      case 'GET_VRING_BASE':
        return encodeReply(name, { index: values.index, num: await nic.stopVring(values.index) });
      case 'SET_VRING_KICK':
        await nic.setVringKick(indexOf(values.value), fds[0] ?? 'polled');
        return null;
      case 'SET_VRING_CALL':
        await nic.setVringCall(indexOf(values.value), fds[0] ?? null);
        return null;
      case 'SET_VRING_ERR':
        await nic.setVringError(indexOf(values.value), fds[0] ?? null);
        return null;
      case 'SET_VRING_ENABLE':
        if (values.num > 1)
          throw new VhostUserError('VHOST_VALUE', `${name}: ${values.num} is neither on nor off`);
        await nic.enableVring(values.index, values.num === 1);
        return null;
      case 'SEND_RARP':
        await nic.announce(macOf(values.value));
        return null;
      case 'NET_SET_MTU':
        await nic.setMtu(values.value);
        return null;
      case 'SET_BACKEND_REQ_FD':
        await this.#setChannel(fds[0]!);
        return null;
      case 'IOTLB_MSG':
        await this.#translate(values);
        return null;
    }
  }

  /** The front end is gone. */
  async end(): Promise<void> {
    this.#channel?.close();
    await this.#nic.disconnect();
  }

  async #setChannel(fd: OwnedFd): Promise<void> {
    const channel = new BackendChannel(fd);
    this.#channel?.close();
    this.#channel = channel;
    await this.#nic.setTranslator((iova, write) => channel.miss(iova, write));
  }

  async #translate({ iova, size, userspaceAddress, permType }: RequestValues<'IOTLB_MSG'>): Promise<void> {
    const kind = (permType >>> 8) & 0xff;
    if (kind === IOTLB.INVALIDATE) return this.#nic.removeTranslation(iova, size);
    if (kind !== IOTLB.UPDATE)
      throw new VhostUserError('VHOST_VALUE', `IOTLB_MSG: no message of kind ${kind} is due`);
    await this.#nic.addTranslation({
      ...{ iova, size, userspaceAddress },
      readable: (permType & IOTLB_PERM.READ) !== 0,
      writable: (permType & IOTLB_PERM.WRITE) !== 0,
    });
  }
}

function nameOf({ guestPhysicalAddress, size, userspaceAddress }: Region) {
  return { guestPhysicalAddress, size, hypervisorVirtualAddress: userspaceAddress };
}

function regionOf(region: Omit<Region, 'pad'>, fd: OwnedFd): MemoryRegionSpec {
  return { ...nameOf(region as Region), mmapOffset: region.mmapOffset, fd };
}

function indexOf(value: bigint): number {
  return Number(value & VRING_FD.INDEX);
}

/** The first six octets of a u64 in memory. */
function macOf(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value, true);
  return bytes.subarray(0, 6);
}
