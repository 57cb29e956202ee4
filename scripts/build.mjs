// Builds what runs: TypeScript into dist/, the datapath into dist/datapath.wasm. Incremental; a build with nothing to do takes a third of a second.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, statSync, utimesSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const run = (tool, args) => {
  const { status, error } = spawnSync(process.execPath, [join(root, 'node_modules', tool), ...args], {
    cwd: root,
    stdio: 'inherit',
  });
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
};

// A package installed from the registry carries dist/ and no compiler: nothing to build.
if (!existsSync(join(root, 'node_modules/typescript')) && existsSync(join(root, 'dist/src'))) process.exit(0);

const sources = readdirSync(join(root, 'datapath')).filter(name => name.endsWith('.ts'));
const wasm = join(root, 'dist/datapath.wasm');
const changed = path => statSync(path).mtimeMs;
const stale =
  !existsSync(wasm) ||
  sources.some(name => changed(join(root, 'datapath', name)) > changed(wasm)) ||
  changed(fileURLToPath(import.meta.url)) > changed(wasm);
if (stale) {
  mkdirSync(join(root, 'dist'), { recursive: true });
  const begun = new Date();
  run('assemblyscript/bin/asc.js', [
    'datapath/index.ts',
    ...['--outFile', 'dist/datapath.wasm', '--textFile', 'dist/datapath.wat'],
    ...['--importMemory', '--sharedMemory', '--initialMemory', '65536', '--maximumMemory', '65536'],
    ...['--importTable', '--enable', 'simd', '--enable', 'threads', '--enable', 'bulk-memory'],
    ...['--runtime', 'stub', '-O3', '--noAssert', '--memoryBase', '1024'],
  ]);
  // As old as what it was made from: a source that changed meanwhile is newer.
  utimesSync(wasm, begun, begun);
}

run('typescript/bin/tsc', ['-b']);
