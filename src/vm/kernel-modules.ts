/** Modules of the guest's kernel, each with those that it needs. */
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { VmError } from './errors.js';

/** The modules in a folder, by name. */
export class KernelModules {
  readonly #paths: ReadonlyMap<string, string>;

  constructor(folder: string) {
    const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter(file =>
      file.endsWith('.ko'),
    );
    this.#paths = new Map(files.map(file => [moduleName(file), join(folder, file)]));
  }

  /** The files of these modules and of what they need, in an order in which they can be loaded. Throws when there is no such module. */
  inOrder(names: readonly string[]): string[] {
    const loaded = new Set<string>();
    const visit = (name: string): void => {
      const path = this.#paths.get(name);
      if (path === undefined) throw new VmError('VM_IMAGE', `the guest's kernel has no module ${name}`);
      if (loaded.has(path)) return;
      for (const needed of dependencies(readFileSync(path))) visit(needed);
      loaded.add(path);
    };
    for (const name of names) visit(name);
    return [...loaded];
  }
}

function moduleName(file: string): string {
  return basename(file, '.ko').replaceAll('-', '_');
}

/** The `depends=` line of a module's .modinfo section: strings that end with 0. */
function dependencies(module: Buffer): string[] {
  const key = '\0depends=';
  const at = module.indexOf(key, 0, 'latin1');
  if (at < 0) return [];
  const start = at + key.length;
  const names = module.toString('latin1', start, module.indexOf(0, start));
  return names === '' ? [] : names.split(',').map(moduleName);
}
