/**
 * The control queue of a virtio device, driver side: one command at a time, in guest memory, and the device is asked again and again whether it is done.
 *
 * ```
 *   split    descriptor 0: command ──► descriptor 1: answer     the same ones each time; only indices go on
 *   packed   two slots, command and answer, further on each time
 * ```
 */
import { setTimeout as pause } from 'node:timers/promises';
import type { Window } from '../../memory/window.js';
import { type Areas, areaSizes } from '../../ring/virtio/areas.js';
import type { GuestRam } from '../guest-ram.js';
import { PciError } from './access.js';

/** Descriptors: any device has so many. */
export const COMMAND_RING = 4;
const COMMAND_SIZE = 64;
const NEXT = 1;
const WRITE = 2;
const AVAIL = 0x80;
const USED = 0x8000;
const NO_INTERRUPT = 1;
/** How long a device may take, milliseconds. */
const PATIENCE = 5000;
const LOOK_MS = 1;

export class CommandQueue {
  readonly areas: Areas<bigint>;
  readonly #ram: GuestRam;
  readonly #packed: boolean;
  readonly #view: DataView;
  readonly #halves: Uint16Array;
  /** Window addresses. */
  readonly #at: Areas<number>;
  readonly #buffer: number;
  /** Commands so far (split), slots so far (packed). */
  #count = 0;
  #closed = false;

  /** Throws MemoryError MEMORY_FULL. */
  constructor(window: Window, ram: GuestRam, packed: boolean) {
    this.#ram = ram;
    this.#packed = packed;
    this.#view = new DataView(window.memory.buffer);
    this.#halves = new Uint16Array(window.memory.buffer);
    const sizes = areaSizes(COMMAND_RING, packed);
    const whole = ram.allocate(sizes.descriptor + 3 * 64 + COMMAND_SIZE);
    const driver = whole + sizes.descriptor;
    this.#at = { descriptor: whole, driver, device: driver + 64 };
    this.#buffer = driver + 2 * 64;
    this.areas = {
      descriptor: ram.toGuest(this.#at.descriptor),
      driver: ram.toGuest(this.#at.driver),
      device: ram.toGuest(this.#at.device),
    };
    this.#view.setUint16(packed ? driver + 2 : driver, NO_INTERRUPT, true);
  }

  /** Sends class, command and data. Rejects with PciError: PCI_DEVICE when the device says no, or nothing; PCI_GONE when the queue was closed meanwhile. */
  async send(command: Uint8Array, ring: () => Promise<void>): Promise<void> {
    const ack = this.#buffer + command.length;
    new Uint8Array(this.#view.buffer).set(command, this.#buffer);
    this.#view.setUint8(ack, 0xff);
    const isDone = this.#packed ? this.#publishPacked(command.length) : this.#publishSplit(command.length);
    await ring();
    for (const end = performance.now() + PATIENCE; !this.#isOver(isDone); await pause(LOOK_MS)) {
      if (performance.now() > end) throw new PciError('PCI_DEVICE', 'the device does not answer a command');
    }
    const answer = this.#view.getUint8(ack);
    if (answer !== 0) throw new PciError('PCI_DEVICE', `the device refuses a command: ${answer}`);
  }

  /** The device uses it no more. What is being sent has failed, and looks at the memory no more either. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#ram.free(this.#at.descriptor);
  }

  /** After each wait: the memory may be somebody else's by then. */
  #isOver(isDone: () => boolean): boolean {
    if (this.#closed) throw new PciError('PCI_GONE', 'the device is gone');
    return isDone();
  }

  #publishSplit(length: number): () => boolean {
    const { descriptor, driver, device } = this.#at;
    this.#describe(descriptor, this.#buffer, length, NEXT, 1);
    this.#describe(descriptor + 16, this.#buffer + length, 1, WRITE, 0);
    this.#view.setUint16(driver + 4 + 2 * (this.#count % COMMAND_RING), 0, true);
    this.#count = (this.#count + 1) & 0xffff;
    const due = this.#count;
    Atomics.store(this.#halves, (driver + 2) / 2, due);
    return () => Atomics.load(this.#halves, (device + 2) / 2) === due;
  }

  #publishPacked(length: number): () => boolean {
    const slot = this.#count % COMMAND_RING;
    const wrap = this.#count % (2 * COMMAND_RING) < COMMAND_RING;
    const [available, used] = wrap ? [AVAIL, AVAIL | USED] : [USED, 0];
    this.#count += 2;
    const head = this.#at.descriptor + 16 * slot;
    this.#describe(head + 16, this.#buffer + length, 1, 1, WRITE | available);
    this.#view.setBigUint64(head, this.#ram.toGuest(this.#buffer), true);
    this.#view.setUint32(head + 8, length, true);
    this.#view.setUint16(head + 12, 1, true);
    const flags = (head + 14) / 2;
    Atomics.store(this.#halves, flags, NEXT | available);
    return () => (Atomics.load(this.#halves, flags) & (AVAIL | USED)) === used;
  }

  /** The last two fields: flags and next (split), id and flags (packed). */
  #describe(at: number, window: number, length: number, third: number, fourth: number): void {
    this.#view.setBigUint64(at, this.#ram.toGuest(window), true);
    this.#view.setUint32(at + 8, length, true);
    this.#view.setUint16(at + 12, third, true);
    this.#view.setUint16(at + 14, fourth, true);
  }
}
