/** What goes wrong with virtual machines. Codes: docs/troubleshooting.md. */

export type VmErrorCode = 'VM_QEMU' | 'VM_QMP' | 'VM_ENDED' | 'VM_IMAGE' | 'VM_GUEST' | 'VM_TRAFFIC';

/**
 * - `VM_QEMU`   no QEMU where one was looked for, or one that can't do what was asked
 * - `VM_QMP`    QEMU refused a command of its monitor; the message is QEMU's
 * - `VM_ENDED`  the virtual machine ended before it answered, or was too slow
 * - `VM_IMAGE`  what a guest boots can't be put together
 * - `VM_GUEST`  a script in the guest failed; what it said is in the message
 * - `VM_TRAFFIC` what was sent through a NIC did not arrive as it was
 */
export class VmError extends Error {
  override readonly name = 'VmError';
  readonly code: VmErrorCode;

  constructor(code: VmErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}
