/**
 * Stock QEMU as the client of our vfio-user server, a Linux guest behind it, and functions that take notes: what the protocol carries, without a driver.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { socketChannel } from '../../src/control/bpfhv-proxy/channel.js';
import { type ClientMemory, serveVfioUser, type VfioSessionEnd } from '../../src/control/vfio-user/index.js';
import { eventually } from '../../src/linux/testing.js';
import { UnixListener } from '../../src/linux/unix-listener.js';
import { IRQ, REGION } from '../../src/linux/vfio-numbers.js';
import { vfioUserDevice } from '../../src/vm/command-line.js';
import { Vm } from '../../src/vm/vm.js';
import { NoteTakingFunction } from '../unit/vfio-user-peer.js';
import { vmTest } from './kit/needs.js';

/** With a configuration space that Linux believes: one memory BAR of 8 KiB, perhaps with MSI-X in it. */
class PciNotes extends NoteTakingFunction {
  readonly #config: DataView;

  constructor(deviceId: number, { msix }: { msix: boolean }) {
    super();
    this.irqs[IRQ.INTX] = 0;
    this.#config = new DataView(this.bytes[REGION.CONFIG]!.buffer);
    this.#config.setUint16(0x00, 0x1af4, true);
    this.#config.setUint16(0x02, deviceId, true);
    this.#config.setUint32(0x08, 0xff00_0001, true);
    if (!msix) return;
    this.#config.setUint16(0x06, 0x10, true);
    this.#config.setUint8(0x34, 0x40);
    this.#config.setUint32(0x40, 0x001f_0011, true);
    this.#config.setUint32(0x44, 0x1000, true);
    this.#config.setUint32(0x48, 0x1800, true);
  }

  /** Only the command register and the BAR have bits that can be written. */
  override async write(region: number, offset: number, bytes: Uint8Array): Promise<void> {
    const before = this.bytes[REGION.CONFIG]!.slice();
    await super.write(region, offset, bytes);
    if (region !== REGION.CONFIG) return;
    const command = this.#config.getUint16(0x04, true) & 0x406;
    const bar = this.#config.getUint32(0x10, true) & ~8191;
    this.bytes[REGION.CONFIG]!.set(before);
    this.#config.setUint16(0x04, command, true);
    this.#config.setUint32(0x10, bar, true);
  }
}

interface Session {
  readonly fn: PciNotes;
  readonly memory: Promise<ClientMemory>;
  readonly end: Promise<VfioSessionEnd>;
}

/** Serves the functions of a list to whoever connects, one after the other. */
function serve(path: string, functions: readonly PciNotes[]): { sessions: Session[]; close(): void } {
  const sessions: Session[] = [];
  const listener = UnixListener.listen(path);
  listener.onConnection(
    connection => {
      const fn = functions[sessions.length]!;
      let end!: Promise<VfioSessionEnd>;
      const memory = new Promise<ClientMemory>(onMemory => {
        end = serveVfioUser(socketChannel(connection), fn, { onMemory });
      });
      sessions.push({ fn, memory, end });
    },
    error => {
      throw error;
    },
  );
  return { sessions, close: () => listener.close() };
}

const folderOf = (id: string): string => `$(dirname $(grep -l ${id} /sys/bus/pci/devices/*/device))`;

vmTest(
  'a guest sees a function, reads and writes it, and its memory is reached; another one comes and goes',
  '11.1',
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'polynic-vfio-user-'));
    const socket = join(folder, 'socket');
    const fn = new PciNotes(0x5678, { msix: true });
    // QEMU 11.1.3 aborts when a function with MSI-X is pulled out.
    const guest = new PciNotes(0x9abc, { msix: false });
    const server = serve(socket, [fn, guest, guest]);
    const vm = await Vm.start({ qemu: '11.1', nics: [{ kind: 'vfio-user', socket }] });
    try {
      const device = folderOf('0x5678');
      const config = await vm.run(`hexdump -v -n 4 -e '4/1 "%02x"' ${device}/config`);
      assert.equal(config.trim(), 'f41a7856');

      // Memory decoding and bus mastering on; then a register is read, and one written, without waiting.
      fn.bytes[REGION.BAR0]!.set([0x78, 0x56, 0x34, 0x12], 0x20);
      const bar = (await vm.run(`head -n 1 ${device}/resource | cut -d ' ' -f 1`)).trim();
      await vm.run(`printf '\\006\\000' | dd of=${device}/config bs=1 seek=4 conv=notrunc`);
      assert.equal((await vm.run(`devmem $((${bar} + 0x20)) 32`)).trim(), '0x12345678');
      await vm.run(`devmem $((${bar} + 0x24)) 32 0xcafe0001`);
      await eventually(() => fn.calls.includes('write(0, 0x24, 0100feca)'));

      // The guest's memory, by file and by messages.
      const ram = fn.memory.reduce((sum, { size }) => sum + size, 0n);
      assert.ok(ram > 250n << 20n, `${ram} bytes`);
      assert.ok(fn.memory.some(({ writable }) => writable === false));
      const memory = await server.sessions[0]!.memory;
      await memory.write(0x1000n, await memory.read(0x1000n, 4096));
      const pieces = await Promise.all([1, 2, 3].map(i => memory.read(BigInt(i) << 24n, 1 << 20)));
      assert.ok(pieces.every(({ length }) => length === 1 << 20));
      await assert.rejects(memory.read(1n << 50n, 4), { code: 'VFIO_REFUSED' });

      for (const session of [1, 2]) {
        const id = `late${session}`;
        await vm.monitor.execute(
          'device_add',
          vfioUserDevice(vm.qemu, { kind: 'vfio-user', socket, bus: 'port0' }, id),
        );
        await vm.run('until grep -q 0x9abc /sys/bus/pci/devices/*/device; do usleep 10000; done');
        const gone = vm.monitor.event(
          ({ event, data }) => event === 'DEVICE_DELETED' && data.device === id,
          vm.monitor.events.length,
        );
        await vm.monitor.execute('device_del', { id });
        await gone;
        assert.equal((await server.sessions[session]!.end).error, null);
        assert.equal(guest.calls.at(-1), 'disconnect()');
      }
    } finally {
      await vm.stop();
      server.close();
      rmSync(folder, { recursive: true });
    }
    for (const { fn, end } of server.sessions) {
      const { refused, error } = await end;
      assert.deepEqual([refused, error, fn.violations], [0, null, []]);
    }
    assert.equal(fn.calls.at(-1), 'disconnect()');
  },
  { vfioUser: true },
);
