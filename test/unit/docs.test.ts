/**
 * The documents against the code: links and headings exist, so do the files, npm scripts, commands and options that they name.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '../../..');
const SKIPPED = new Set(['node_modules', 'dist', '.git', 'coverage']);
/** Folders whose files are named in the documents with their path from the root. */
const PATH = /^(src|datapath|programs|scripts|docs|test|bin|bench)\/[\w./-]*[\w/]$/;
/** Placeholders in instructions: a folder or file that the reader is to make. */
const PLACEHOLDER = /NAME|DEVICE/;
const BUILT_IN = new Set(['ci', 'install', 'pack', 'publish']);

function filesBelow(folder: string, ending: RegExp): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap(entry => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return SKIPPED.has(entry.name) ? [] : filesBelow(path, ending);
    return ending.test(entry.name) ? [path] : [];
  });
}

const read = (path: string): string => readFileSync(path, 'utf8');
const shown = (path: string): string => relative(root, path);
const prose = (text: string): string => text.replace(/^```[\s\S]*?^```/gm, '');
const documents = filesBelow(root, /\.md$/);

/** The headings of a document. */
function headings(text: string): string[] {
  return [...prose(text).matchAll(/^#{1,6} +(.+?) *$/gm)].map(([, title]) => title!);
}

/** What a heading is called in a link: lower case, punctuation gone, spaces as hyphens. */
function anchor(title: string): string {
  return title
    .toLowerCase()
    .replace(/[^\p{L}\p{N} _-]/gu, '')
    .replace(/ /g, '-');
}

/** `polynic … --help` as it is printed. */
function help(...command: string[]): string {
  const bin = join(root, 'bin/polynic.js');
  const { status, stdout, stderr } = spawnSync(process.execPath, [bin, ...command, '--help'], {
    encoding: 'utf8',
  });
  assert.equal(status, 0, `polynic ${command.join(' ')} --help: ${stderr}`);
  return stdout;
}

/** The options that a help text or a document describes. */
function options(text: string): Set<string> {
  return new Set([...text.matchAll(/(?<![\w-])--[a-z][a-z-]*/g)].map(([option]) => option));
}

/** The commands that a help text lists. */
function commands(text: string): string[] {
  const list = /^Commands:\n([\s\S]*?)(?:\n\n|$(?![\s\S]))/m.exec(text)?.[1] ?? '';
  return [...list.matchAll(/^ {2}([a-z]+)/gm)].map(([, name]) => name!).filter(name => name !== 'help');
}

describe('documents', () => {
  test('links lead to files and headings that exist', () => {
    let links = 0;
    for (const document of documents) {
      for (const [, target] of prose(read(document)).matchAll(/\]\(([^)\s]+)\)/g)) {
        if (/^https?:/.test(target!)) continue;
        const [path, fragment] = target!.split('#') as [string, string | undefined];
        const file = path === '' ? document : join(dirname(document), path);
        assert.ok(existsSync(file), `${shown(document)}: no file ${target}`);
        if (fragment !== undefined) {
          const anchors = headings(read(file)).map(anchor);
          assert.ok(anchors.includes(fragment), `${shown(document)}: no heading ${target}`);
        }
        links++;
      }
    }
    assert.ok(links > 20, `only ${links} links were found`);
  });

  test('files and folders in backquotes exist', () => {
    let paths = 0;
    for (const document of documents) {
      for (const [, code] of prose(read(document)).matchAll(/`([^`\n]+)`/g)) {
        if (!PATH.test(code!) || PLACEHOLDER.test(code!)) continue;
        const path = join(root, code!);
        assert.ok(existsSync(path), `${shown(document)}: no ${code}`);
        // An empty folder is not in the repository.
        const files = statSync(path).isDirectory() ? filesBelow(path, /./).length : 1;
        assert.ok(files > 0, `${shown(document)}: nothing in ${code}`);
        paths++;
      }
    }
    assert.ok(paths > 50, `only ${paths} paths were found`);
  });

  test('npm scripts exist', () => {
    const { scripts } = JSON.parse(read(join(root, 'package.json'))) as { scripts: Record<string, string> };
    const named = new Set<string>();
    for (const document of documents) {
      for (const [, name] of read(document).matchAll(/\bnpm (?:run )?([a-z][a-z:-]*)/g)) named.add(name!);
    }
    for (const name of named)
      assert.ok(BUILT_IN.has(name) || name in scripts, `npm run ${name} is not there`);
    assert.ok(named.has('start') && named.has('test'));
  });

  test('headings that code comments cite exist', () => {
    let cited = 0;
    for (const folder of ['src', 'datapath', 'programs', 'test']) {
      for (const file of filesBelow(join(root, folder), /\.(ts|c|h)$/)) {
        for (const [, document, title] of read(file).matchAll(/\((docs\/[\w-]+\.md), "([^"]+)"\)/g)) {
          assert.ok(
            headings(read(join(root, document!))).includes(title!),
            `${shown(file)}: ${document}, ${title}`,
          );
          cited++;
        }
      }
    }
    assert.ok(cited > 0);
  });
});

test('every error code is explained, and every one that is explained exists', () => {
  const CODE =
    /(?:CAPTURE|CONFIG|CONTROL|DEMO|DRIVER|EBPF|ERR_MAPPING|ERR_SOCKET|MEMORY|NIC|PCI|PORT|PROXY|THREAD|UPGRADE|VHOST|VM)_[A-Z_]+/;
  const source = filesBelow(join(root, 'src'), /^(?!testing)[\w-]+(?<!\.test)\.ts$/)
    .map(read)
    .join('\n');
  const guide = read(join(root, 'docs/troubleshooting.md'));
  const all = (text: string, quote: string) =>
    [...new Set(text.match(new RegExp(`${quote}${CODE.source}${quote}`, 'g')))]
      .map(code => code.slice(1, -1))
      .sort();
  const thrown = all(source, "'");
  assert.ok(thrown.length > 50, `only ${thrown.length} codes were found`);
  assert.deepEqual(all(guide, '`'), thrown);
});

test("the README's list of what can be imported is what package.json exports", () => {
  const { name, exports } = JSON.parse(read(join(root, 'package.json'))) as {
    name: string;
    exports: Record<string, unknown>;
  };
  const section = /^## As a library\n([\s\S]*?)^## /m.exec(read(join(root, 'README.md')))![1]!;
  const listed = [...section.matchAll(/^\| `([\w/-]+)`/gm)].map(([, module]) => module!);
  const there = Object.keys(exports).filter(path => path !== './package.json');
  assert.deepEqual(listed.sort(), there.map(path => join(name, path)).sort());
});

test('the index of attacks names every test that lies beside it, and no other', () => {
  const folder = join(root, 'test/hostile');
  const named = [...read(join(folder, 'README.md')).matchAll(/\]\(([\w-]+\.test\.ts)\)/g)].map(
    ([, file]) => file!,
  );
  const there = readdirSync(folder).filter(file => file.endsWith('.test.ts'));
  assert.deepEqual([...new Set(named)].sort(), there.sort());
});

describe("the README's command reference", () => {
  const text = read(join(root, 'README.md'));
  const reference = /^## Commands\n([\s\S]*?)^## /m.exec(text)![1]!;
  /** By command words: the text below its heading. */
  const sections = new Map(
    [...reference.matchAll(/^### polynic ([a-z ]+)\n([\s\S]*?)(?=^### |$(?![\s\S]))/gm)].map(
      ([, command, body]) => [command!, body!] as const,
    ),
  );

  test('has every command that --help lists, and no other', () => {
    const top = commands(help());
    const leaves = top.flatMap(name => {
      const below = commands(help(name));
      return below.length === 0 ? [name] : below.map(sub => `${name} ${sub}`);
    });
    assert.deepEqual([...sections.keys()].sort(), leaves.sort());
  });

  test('has every option of each command, and no other', () => {
    const general = options(help());
    for (const [command, body] of sections) {
      const there = options(help(...command.split(' ')));
      const described = options(body);
      there.delete('--help');
      for (const option of described) {
        assert.ok(there.has(option) || general.has(option), `polynic ${command} has no ${option}`);
      }
      for (const option of there)
        assert.ok(described.has(option), `polynic ${command}: ${option} is missing`);
    }
  });
});
