/** The client's memory by messages: for what a device must reach and can't map. */
import { VfioUserError } from './errors.js';
import { type CommandName, type CommandValues, encodeCommand, type Reply } from './messages.js';
import type { PendingCommands } from './pending.js';
import type { VfioUserStream } from './stream.js';

/**
 * QEMU does not finish a reply of which the kernel takes only the beginning, so longer ones than this are not asked for; and it aborts when one of several
 * does not go at once, so no second one is asked for before the first has come. Bytes.
 */
const MAX_PIECE = 65536;

/**
 * Throws VfioUserError: `VFIO_REFUSED` (nothing is mapped there), `VFIO_TIMEOUT`, `VFIO_CLOSED`, others for answers that make no sense.
 * QEMU 10 reads and writes four bytes beside the place: do not use it there.
 */
export interface ClientMemory {
  /** Reads `length` bytes at a bus address. */
  read(address: bigint, length: number): Promise<Uint8Array>;
  write(address: bigint, bytes: Uint8Array): Promise<void>;
}

export class MessageMemory implements ClientMemory {
  readonly #pending: PendingCommands;
  readonly #stream: VfioUserStream;
  readonly #piece: number;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(stream: VfioUserStream, pending: PendingCommands, maxTransfer: number) {
    this.#stream = stream;
    this.#pending = pending;
    this.#piece = Math.min(maxTransfer, MAX_PIECE);
  }

  async read(address: bigint, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length; ) {
      const [from, count] = [address + BigInt(at), Math.min(length - at, this.#piece)];
      const { values, tail } = await this.#ask('DMA_READ', { address: from, count: BigInt(count) });
      if (values?.address !== from || values.count !== BigInt(count) || tail.length !== count) {
        throw new VfioUserError(
          'VFIO_VALUE',
          `DMA_READ: ${tail.length} bytes, not ${count}, or of elsewhere`,
        );
      }
      bytes.set(tail, at);
      at += count;
    }
    return bytes;
  }

  async write(address: bigint, bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      const piece = bytes.subarray(at, at + this.#piece);
      const to = address + BigInt(at);
      const count = BigInt(piece.length);
      const { values, tail } = await this.#ask('DMA_WRITE', { address: to, count }, piece);
      if (values?.address !== to || countOf(tail) !== count) {
        throw new VfioUserError('VFIO_VALUE', `DMA_WRITE: not ${count} bytes, or elsewhere`);
      }
      at += piece.length;
    }
  }

  async #ask<N extends CommandName>(name: N, values: CommandValues<N>, tail?: Uint8Array): Promise<Reply<N>> {
    const command = encodeCommand(name, values, tail);
    const reply = this.#turn.then(async () => {
      await this.#stream.sent();
      return this.#pending.ask(name, command, bytes => this.#stream.send(bytes));
    });
    this.#turn = reply.catch(() => {}); // the next in line has its own success
    return reply;
  }
}

/** Four bytes by the specification, eight from QEMU; -1 for anything else. */
function countOf(tail: Uint8Array): bigint {
  const view = new DataView(tail.buffer, tail.byteOffset, tail.length);
  if (tail.length === 4) return BigInt(view.getUint32(0, true));
  return tail.length === 8 ? view.getBigUint64(0, true) : -1n;
}
