/** What goes wrong with virtual machines. Codes: docs/troubleshooting.md. */

export type VmErrorCode = 'VM_QEMU' | 'VM_QMP' | 'VM_ENDED';

/**
 * - `VM_QEMU`   no QEMU where one was looked for, or one that can't do what was asked
 * - `VM_QMP`    QEMU refused a command of its monitor; the message is QEMU's
 * - `VM_ENDED`  the virtual machine ended before it answered
 */
export class VmError extends Error {
  override readonly name = 'VmError';
  readonly code: VmErrorCode;

  constructor(code: VmErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}
