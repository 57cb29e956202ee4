/** What `npm pack` takes along is all that the packed code loads. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '../../..');

/** Paths from the root of the files in the package. */
function packed(): Set<string> {
  const answer = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
    cwd: root,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const [{ files }] = JSON.parse(answer) as [{ files: { path: string }[] }];
  return new Set(files.map(({ path }) => path));
}

test('every file that packed code or types name with a relative path is packed', () => {
  const files = packed();
  assert.ok(files.has('bin/polynic.js') && files.has('dist/datapath.wasm'));
  const named = /(?:from|import\(|import|new URL\()\s*['"](\.[^'"]*\.(?:js|wasm|json|o))['"]/g;
  let found = 0;
  for (const file of files) {
    if (!/\.js$|\.d\.ts$|^bin\//.test(file)) continue;
    for (const [, path] of readFileSync(join(root, file), 'utf8').matchAll(named)) {
      const target = join(dirname(file), path!);
      assert.ok(files.has(target), `${file} names ${target}, which is not packed`);
      if (target.endsWith('.js') && file.endsWith('.d.ts')) {
        assert.ok(files.has(target.replace(/js$/, 'd.ts')), `${file}: no types of ${target}`);
      }
      found++;
    }
  }
  assert.ok(found > 100, `only ${found} references found`);
});

test('what package.json exports and runs is packed, tests are not', () => {
  const files = packed();
  const { bin, exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    bin: Record<string, string>;
    exports: Record<string, string | { types: string; default: string }>;
  };
  const targets = Object.values(exports).flatMap(target =>
    typeof target === 'string' ? [target] : [target.types, target.default],
  );
  for (const target of [...Object.values(bin), ...targets]) {
    assert.ok(files.has(join(target)), `${target} is not packed`);
  }
  assert.deepEqual(
    [...files].filter(file => /\.test\./.test(file)),
    [],
  );
});
