/**
 * A real virtual machine: stock QEMU, Debian's cloud kernel, software emulation.
 *
 * ```
 *   this process                               QEMU (dies with us)                guest
 *   vm.run(script)  ── fd 4, virtio-serial ──────────────────────────────────►  init runs it with sh
 *   vm.monitor      ── fd 3, QMP ───────────►  device_add, migrate, stop …
 *   vm.console      ◄─ fd 5, serial port ────────────────────────────────────  kernel messages
 *                      NICs: words for QEMU   ─── socket ───►  the NIC's backend
 * ```
 * The three channels are socket pairs: no file is left behind, whatever happens.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Duplex } from 'node:stream';
import { Agent, type Outcome } from './agent.js';
import { machineArgs, nicArgs, quoted, type VmNic } from './command-line.js';
import { VmError } from './errors.js';
import { PORT_NAME } from './guest-init.js';
import { type ImageName, imagePath } from './image.js';
import { cachedKernel, type Qemu, type QemuName, qemuNamed } from './qemu.js';
import { Qmp } from './qmp.js';

/** Two seconds on an idle machine. */
const BOOT_MS = 180_000;
const RUN_MS = 120_000;
const STOP_MS = 20_000;

export interface VmOptions {
  readonly qemu: QemuName;
  readonly image?: ImageName;
  /** Default 256, with the node image 1024. */
  readonly memoryMb?: number;
  readonly cpus?: number;
  /** The first is eth0 in the guest and `nic0` in the monitor, and so on. */
  readonly nics?: readonly VmNic[];
  /** Descriptors that QEMU inherits, as 6, 7 …; for NICs of kind `tap`. */
  readonly fds?: readonly number[];
  /** Further words for QEMU. */
  readonly args?: readonly string[];
  /** Added to the kernel's command line. */
  readonly append?: string;
  /** An IOMMU, so that programs in the guest can have devices of their own (VFIO). */
  readonly iommu?: boolean;
  /** Ends the machine, at once. */
  readonly signal?: AbortSignal;
  /** Wait for the state of another machine instead of booting: see `migrateTo`. */
  readonly incoming?: boolean;
}

/** The number under which QEMU knows the first of `fds`. */
export const FIRST_FD = 6;

export class Vm {
  readonly qemu: Qemu;
  readonly pid: number;
  /** From the start of QEMU to the guest's first word, milliseconds; 0 before. */
  bootMs = 0;
  /** What the guest's kernel printed, and QEMU. */
  console = '';
  monitor!: Qmp;
  readonly commandLine: string;
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;
  readonly #agent: Agent;
  #stopped = false;

  private constructor(options: VmOptions) {
    this.qemu = qemuNamed(options.qemu);
    const words = commandLine(this.qemu, options);
    this.commandLine = quoted(words);
    // Killed or not, we leave no QEMU behind.
    this.#child = spawn('setpriv', ['--pdeathsig', 'SIGKILL', ...words], {
      stdio: ['ignore', 'pipe', 'pipe', 'pipe', 'pipe', 'pipe', ...(options.fds ?? [])],
    });
    this.pid = this.#child.pid!;
    const hear = (text: string): void => void (this.console += text);
    this.#child.stdout!.setEncoding('utf8').on('data', hear);
    this.#child.stderr!.setEncoding('utf8').on('data', hear);
    this.#channel(5)
      .setEncoding('utf8')
      .on('data', hear)
      .on('error', () => {});
    this.#agent = new Agent(this.#channel(4));
    this.#ended = new Promise(resolve => {
      this.#child.once('error', error => {
        this.console += error.message;
        resolve();
      });
      this.#child.once('close', () => resolve());
    });
    void this.#ended.then(() => this.#agent.fail(this.#error('QEMU ended')));
    options.signal?.addEventListener('abort', () => void this.stop(), { once: true });
  }

  /** Boots a machine and waits until it runs scripts; with `incoming`, until it waits for another's state. */
  static async start(options: VmOptions): Promise<Vm> {
    const vm = new Vm(options);
    const begun = performance.now();
    const ready = vm.#agent.ready();
    ready.catch(() => {}); // whoever waits for it hears of it
    try {
      vm.monitor = await vm.#within(BOOT_MS, 'open its monitor', Qmp.open(vm.#channel(3)));
      if (options.incoming) return vm;
      await vm.#within(BOOT_MS, 'boot', ready);
      vm.bootMs = performance.now() - begun;
      return vm;
    } catch (error) {
      await vm.stop();
      throw error instanceof Error && error.message.includes(vm.console) ? error : vm.#error(String(error));
    }
  }

  /** Runs a shell script in the guest. Returns what it printed; rejects when it fails, with what it said. */
  async run(script: string, limitMs = RUN_MS): Promise<string> {
    const { code, stdout, stderr } = await this.try(script, limitMs);
    if (code === 0) return stdout;
    throw new VmError('VM_GUEST', `in the guest: ${script}\n${stdout}${stderr}\n${this.#tail()}`);
  }

  /** The same, whatever its exit code. */
  try(script: string, limitMs = RUN_MS): Promise<Outcome> {
    return this.#within(limitMs, `run: ${script}`, this.#agent.run(script));
  }

  /** Resets the machine, as its button would, and waits until the guest is there again. */
  async reset(): Promise<void> {
    const ready = this.#agent.ready();
    await this.monitor.execute('set-action', { reboot: 'reset' }); // otherwise that is an end: a kernel that panics is not to go on
    await this.monitor.execute('system_reset');
    await this.#within(BOOT_MS, 'boot again', ready);
    await this.monitor.execute('set-action', { reboot: 'shutdown' });
  }

  /** Moves the running guest to a machine that was started with `incoming` and the same devices. Resolves when it runs there; this one has stopped. */
  async migrateTo(target: Vm, socket: string, limitMs = BOOT_MS): Promise<void> {
    for (const { monitor } of [target, this]) {
      await monitor.execute('migrate-set-capabilities', {
        capabilities: [{ capability: 'events', state: true }],
      });
    }
    const resumed = target.monitor.event(({ event }) => event === 'RESUME', target.monitor.events.length);
    resumed.catch(() => {}); // heard below, if the source gets that far
    const ended = this.monitor.event(
      ({ event, data }) => event === 'MIGRATION' && /^(completed|failed)$/.test(String(data.status)),
      this.monitor.events.length,
    );
    await target.monitor.execute('migrate-incoming', { uri: `unix:${socket}` });
    await this.monitor.execute('migrate', { uri: `unix:${socket}` });
    const { data } = await this.#within(limitMs, 'migrate', ended);
    if (data.status !== 'completed')
      throw new VmError('VM_ENDED', `the migration has ${data.status}\n${this.#tail()}\n${target.#tail()}`);
    await target.#within(limitMs, 'go on after a migration', resumed);
    target.#agent.succeed(this.#agent);
  }

  /** Ends the machine, at once. */
  async stop(): Promise<void> {
    if (this.#stopped) return;
    this.#stopped = true;
    this.monitor?.execute('quit').catch(() => {}); // it may be gone already
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), this.monitor ? STOP_MS : 0);
    await this.#ended;
    clearTimeout(timer);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }

  #channel(fd: number): Duplex {
    return this.#child.stdio[fd] as Duplex;
  }

  #within<T>(ms: number, what: string, promise: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(this.#error(`${ms} ms were not enough to ${what}`)), ms);
      promise.then(resolve, reject).finally(() => clearTimeout(timer));
    });
  }

  #error(what: string): Error {
    return new VmError('VM_ENDED', `${what}\n${this.commandLine}\n${this.console}`);
  }

  /** The end of the console. */
  #tail(): string {
    return this.console.slice(-4000);
  }
}

function commandLine(qemu: Qemu, options: VmOptions): string[] {
  const { image = 'tiny', cpus = 1, nics = [], iommu = false } = options;
  const machine = machineArgs({
    memoryMb: options.memoryMb ?? (image === 'node' ? 1024 : 256),
    cpus,
    accelerator: 'tcg',
    kernel: cachedKernel()!.image,
    initrd: imagePath(image),
    append: [
      'console=ttyS0 quiet panic=-1 mitigations=off',
      ...(iommu ? ['intel_iommu=on'] : []),
      options.append ?? '',
    ]
      .join(' ')
      .trim(),
    iommu,
  });
  return [
    ...[qemu.path, '-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none', ...machine],
    ...['-chardev', 'socket,id=monitor,fd=3', '-mon', 'chardev=monitor,mode=control'],
    ...['-chardev', 'socket,id=console,fd=5', '-serial', 'chardev:console'],
    ...['-device', 'virtio-serial-pci', '-chardev', 'socket,id=agent,fd=4'],
    ...['-device', `virtserialport,chardev=agent,name=${PORT_NAME}`],
    // Ports that a device can be plugged into while the machine runs.
    ...['port0', 'port1'].flatMap((id, n) => ['-device', `pcie-root-port,id=${id},chassis=${n + 1}`]),
    ...nics.flatMap((nic, n) => nicArgs(qemu, 'tcg', nic, `nic${n}`)),
    ...(options.incoming ? ['-incoming', 'defer'] : []),
    ...(options.args ?? []),
  ];
}
