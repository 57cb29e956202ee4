/**
 * Archives that Linux unpacks into its root file system at boot: cpio in the form called "newc".
 *
 * ```
 *   entry    "070701" │ 13 numbers of 8 hex digits │ name, 0 │ padding to 4 │ content │ padding to 4
 *   archive  entry … entry, an entry named TRAILER!!!
 * ```
 * Layout: Documentation/driver-api/early-userspace/buffer-format.rst of Linux.
 */
import { closeSync, openSync, writeSync } from 'node:fs';

const DIRECTORY = 0o040755;
const FILE = 0o100755;
const LINK = 0o120777;

/** What lies at a path: a file's content, or where a symbolic link leads. */
export type Entry = { readonly content: Uint8Array | string } | { readonly link: string };

/** Writes an archive. `tree` maps paths in the guest, which begin with a slash, to entries; folders come by themselves. */
export function writeCpio(path: string, tree: ReadonlyMap<string, Entry>): void {
  const fd = openSync(path, 'w', 0o600);
  let inode = 1;
  const put = (name: string, mode: number, content: Uint8Array): void => {
    const fields = [inode++, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, name.length + 1, 0];
    const head = `070701${fields.map(field => field.toString(16).padStart(8, '0')).join('')}${name}\0`;
    writeSync(fd, padded(Buffer.from(head, 'latin1')));
    if (content.length > 0) writeSync(fd, padded(content));
  };
  try {
    for (const folder of foldersOf([...tree.keys()])) put(folder, DIRECTORY, new Uint8Array());
    for (const [name, entry] of tree) {
      const text = 'link' in entry ? entry.link : entry.content;
      const content = typeof text === 'string' ? Buffer.from(text) : text;
      put(name.slice(1), 'link' in entry ? LINK : FILE, content);
    }
    put('TRAILER!!!', 0, new Uint8Array());
  } finally {
    closeSync(fd);
  }
}

/** Every folder above these paths, parents first, without the leading slash. */
function foldersOf(paths: readonly string[]): string[] {
  const folders = new Set<string>();
  for (const path of paths) {
    const parts = path.slice(1).split('/').slice(0, -1);
    for (let depth = 1; depth <= parts.length; depth++) folders.add(parts.slice(0, depth).join('/'));
  }
  return [...folders].sort();
}

function padded(bytes: Uint8Array): Uint8Array {
  const missing = -bytes.length & 3;
  return missing === 0 ? bytes : Buffer.concat([bytes, new Uint8Array(missing)]);
}
