/**
 * How a bpfhv driver reaches its device: registers, the program window, doorbells and interrupts. The driver is the same over every one:
 * messages to a backend process (src/control/bpfhv-proxy/), or PCI.
 */
import type { GuestRam } from '../guest-ram.js';

export interface BpfhvTransport {
  /** The guest memory that the device can reach. */
  readonly ram: GuestRam;
  /** Reads a register (REG.*). Rejects when the device is gone. */
  read(register: number): Promise<number>;
  /** Writes a register. What the device refuses shows in STATUS, as the registers' rules say. */
  write(register: number, value: number): Promise<void>;
  /** The instructions of the selected program: `instructions` times 8 bytes from the program window. */
  readProgram(instructions: number): Promise<Uint8Array>;
  /** The eventfd that rings the queue's doorbell. */
  doorbell(queue: number): number;
  /** The eventfd of the queue's interrupt. */
  interrupt(queue: number): number;
  /** Called when STATUS may have changed: an upgrade is pending, or the link came or went. */
  onChange: () => void;
  /** Whether there is a device now. */
  readonly present: boolean;
  /** Registers and program window show a contract that is announced but not in force yet; what is registered is for that one. */
  readonly previews: boolean;
  /** Another number whenever what registers and program window show has changed. */
  readonly generation: number;
}

/** A device, or what it offers, that the driver can't work with; a key that it can't have, or lacks. */
export class DriverError extends Error {
  override readonly name = 'DriverError';
  readonly code: 'DRIVER_DEVICE' | 'DRIVER_PROGRAM' | 'DRIVER_KEY' | 'DRIVER_KEY_FILE';

  constructor(code: DriverError['code'], message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}
