/** A folder that looks like the kernel's sysfs and does what the kernel does when a driver is bound and unbound. */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  symlinkSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { Sysfs } from '../../src/linux/sysfs.js';

export interface FakeFunction {
  readonly address: string;
  /** Default 0x1b36000e, the device in the lower half. */
  readonly id?: number;
  readonly driver?: string;
  readonly group?: number;
}

export class FakeSysfs extends Sysfs {
  /** All that was written, in order. */
  readonly written: string[] = [];
  /** Drivers that take nothing. */
  readonly unwilling = new Set<string>();
  /** The driver that knows a function by its id. */
  readonly #natural = new Map<string, string>();

  constructor(t: TestContext, functions: readonly FakeFunction[], drivers: readonly string[]) {
    super(mkdtempSync(join(tmpdir(), 'polynic-sysfs-')));
    t.after(() => rmSync(this.root, { recursive: true }));
    mkdirSync(join(this.root, 'bus/pci/drivers'), { recursive: true });
    writeFileSync(join(this.root, 'bus/pci/drivers_probe'), '');
    for (const name of new Set(drivers)) {
      mkdirSync(join(this.root, 'bus/pci/drivers', name));
      writeFileSync(join(this.root, 'bus/pci/drivers', name, 'unbind'), '');
    }
    for (const one of functions) this.#add(one);
  }

  /** The driver that has a function now. */
  driver(address: string): string | null {
    return this.link(`bus/pci/devices/${address}/driver`);
  }

  override write(path: string, text: string): void {
    const full = join(this.root, path);
    if (existsSync(full)) truncateSync(full); // the kernel keeps nothing of what was written before
    super.write(path, text);
    this.written.push(`${path.replace(/^bus\/pci\//, '')}=${text.trimEnd()}`);
    const word = text.trimEnd();
    const [, address] = /^bus\/pci\/devices\/([^/]+)\/driver_override$/.exec(path) ?? [];
    if (address && word === '') super.write(path, '(null)\n'); // which is how it reads
    if (path.endsWith('/unbind')) unlinkSync(join(this.root, 'bus/pci/devices', word, 'driver'));
    if (path.endsWith('/drivers_probe')) this.#probe(word);
  }

  /** The function is pulled out of its slot. */
  unplug(address: string): void {
    rmSync(join(this.root, 'bus/pci/devices', address), { recursive: true });
  }

  #add({ address, id = 0x1b36_000e, driver, group }: FakeFunction): void {
    const folder = join(this.root, 'bus/pci/devices', address);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, 'vendor'), `0x${(id >>> 16).toString(16)}\n`);
    writeFileSync(join(folder, 'device'), `0x${(id & 0xffff).toString(16)}\n`);
    writeFileSync(join(folder, 'driver_override'), '(null)\n');
    if (driver !== undefined) {
      this.#natural.set(address, driver);
      this.#bind(address, driver);
    }
    if (group === undefined) return;
    const members = join(this.root, `kernel/iommu_groups/${group}/devices`);
    mkdirSync(members, { recursive: true });
    symlinkSync(folder, join(members, address));
    symlinkSync(join(this.root, `kernel/iommu_groups/${group}`), join(folder, 'iommu_group'));
  }

  #probe(address: string): void {
    if (this.driver(address) !== null) return;
    const override = this.read(`bus/pci/devices/${address}/driver_override`);
    const wanted = override === '(null)' ? this.#natural.get(address) : override!;
    if (wanted === undefined || this.unwilling.has(wanted)) return;
    this.#bind(address, wanted);
  }

  #bind(address: string, driver: string): void {
    const folder = join(this.root, 'bus/pci/drivers', driver);
    if (existsSync(folder)) symlinkSync(folder, join(this.root, 'bus/pci/devices', address, 'driver'));
  }
}
