/**
 * QEMU's words for a machine and its NICs. What makes a NIC in userspace work:
 *
 * ```
 *   -object memory-backend-memfd,share=on    guest memory as a descriptor that QEMU can pass on, sealed against shrinking
 *   -machine memory-backend=…                the guest's RAM is that
 *   -chardev socket / "socket"               the conversation with the NIC's backend
 * ```
 * Pure functions of what they are given; nothing here looks at the machine.
 */
import { VmError } from './errors.js';
import { type Accelerator, allowsMsix, atLeast, hasVfioUser, type Qemu } from './qemu.js';

export interface Machine {
  readonly memoryMb: number;
  readonly cpus: number;
  readonly accelerator: Accelerator;
  readonly kernel?: string;
  readonly initrd?: string;
  /** The kernel's command line. */
  readonly append?: string;
  /** An IOMMU, with which the guest can give devices to its own programs; its kernel needs `intel_iommu=on`. */
  readonly iommu?: boolean;
}

/** Memory that can be shared, processor, kernel. */
export function machineArgs(machine: Machine): string[] {
  const { memoryMb, cpus, accelerator, kernel, initrd, append, iommu = false } = machine;
  return [
    ...['-machine', `q35,memory-backend=ram${iommu ? ',kernel-irqchip=split' : ''}`],
    ...['-object', `memory-backend-memfd,id=ram,size=${memoryMb}M,share=on`],
    ...['-m', `${memoryMb}M`, '-smp', String(cpus)],
    ...['-accel', accelerator, '-cpu', accelerator === 'kvm' ? 'host' : 'max'],
    ...(kernel ? ['-kernel', kernel] : []),
    ...(initrd ? ['-initrd', initrd] : []),
    ...(append ? ['-append', append] : []),
    // Before all devices that are to be behind it.
    ...(iommu ? ['-device', 'intel-iommu,intremap=on,caching-mode=on'] : []),
  ];
}

interface AnyNic {
  /** `02:00:00:00:00:05`; QEMU chooses one when not said. */
  readonly mac?: string;
  /** Queue pairs; default 1. */
  readonly queues?: number;
  /** Further properties of the device, e.g. `packed=on`, `bus=port1`. */
  readonly properties?: readonly string[];
}

/** virtio-net, its queues processed by a program that speaks vhost-user on `socket`. */
export interface VhostUserNic extends AnyNic {
  readonly kind: 'vhost-user';
  readonly socket: string;
  /** Who listens on the socket: QEMU (it waits there for a backend, and for the next), or the backend (QEMU tries again and again). */
  readonly listener: 'qemu' | 'backend';
}

/** A whole PCI device in a program that speaks vfio-user on `socket`, where it listens. */
export interface VfioUserNic {
  readonly kind: 'vfio-user';
  readonly socket: string;
  /** A port to put it in that it can be plugged into while the machine runs. */
  readonly bus?: string;
}

/** virtio-net in QEMU itself: one TAP queue for each descriptor that QEMU inherits. */
export interface TapNic extends AnyNic {
  readonly kind: 'tap';
  readonly fds: readonly number[];
}

export type VmNic = VhostUserNic | VfioUserNic | TapNic;

/** The words for one NIC. `id` names it in QEMU's monitor. Throws VmError VM_QEMU when this QEMU has no such thing. */
export function nicArgs(qemu: Qemu, accelerator: Accelerator, nic: VmNic, id: string): string[] {
  switch (nic.kind) {
    case 'vhost-user':
      return [...vhostUserNetdev(qemu, nic, id), ...virtioNet(nic, id, allowsMsix(qemu, accelerator))];
    case 'vfio-user':
      return ['-device', JSON.stringify(vfioUserDevice(qemu, nic, id))];
    case 'tap':
      return ['-netdev', `tap,id=${id},${tapFds(nic.fds)}`, ...virtioNet(nic, id, true)];
  }
}

/** The device as `device_add` takes it, too. Throws VmError VM_QEMU. */
export function vfioUserDevice(qemu: Qemu, { socket, bus }: VfioUserNic, id: string): object {
  if (!hasVfioUser(qemu)) {
    throw new VmError('VM_QEMU', `${qemu.path} is QEMU ${qemu.version.join('.')}: vfio-user came with 10.1`);
  }
  return { driver: 'vfio-user-pci', id, ...(bus ? { bus } : {}), socket: { path: socket, type: 'unix' } };
}

function vhostUserNetdev(qemu: Qemu, { socket, listener, queues = 1 }: VhostUserNic, id: string): string[] {
  const again = atLeast(qemu, 9, 2) ? 'reconnect-ms=200' : 'reconnect=1';
  const how = listener === 'qemu' ? 'server=on,wait=off' : again;
  return [
    ...['-chardev', `socket,id=${id}-socket,path=${escaped(socket)},${how}`],
    ...['-netdev', `vhost-user,id=${id},chardev=${id}-socket${queues > 1 ? `,queues=${queues}` : ''}`],
  ];
}

function virtioNet({ mac, queues = 1, properties = [] }: AnyNic, id: string, msix: boolean): string[] {
  // One interrupt for each queue, one for the control queue and one for changes of the configuration.
  const multiqueue =
    queues > 1 ? ['mq=on', `vectors=${msix ? 2 * queues + 2 : 0}`] : msix ? [] : ['vectors=0'];
  const words = ['virtio-net-pci', `netdev=${id}`, `id=${id}-nic`, 'romfile='];
  return ['-device', [...words, ...(mac ? [`mac=${mac}`] : []), ...multiqueue, ...properties].join(',')];
}

function tapFds(fds: readonly number[]): string {
  return fds.length === 1 ? `fd=${fds[0]}` : `fds=${fds.join(':')}`;
}

/** A value among comma-separated ones: QEMU reads two commas as one. */
function escaped(value: string): string {
  return value.replaceAll(',', ',,');
}

/** Words as a shell would read them: for people to copy. */
export function quoted(words: readonly string[]): string {
  return words
    .map(word => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`))
    .join(' ');
}
