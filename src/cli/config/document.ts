/**
 * A configuration file as text: YAML, of which JSON is a part, with places. What the values have to be is the business of nics.ts.
 *
 * ```
 *   text ──parse──► nodes of the YAML library ──complain()──► "FILE:7:11: nics[0].port: …"
 *                        └── entries(), items(): one step down, aliases followed     nobody walks a tree whose depth the file decides
 * ```
 */
import { readFileSync, statSync } from 'node:fs';
import {
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type ParsedNode,
  parseDocument,
  type YAMLMap,
  type YAMLSeq,
} from 'yaml';
import { ConfigError } from './errors.js';

const MAX_BYTES = 1 << 20;

/** Something in the file. */
export type Node = ParsedNode | null;

export class ConfigDocument {
  readonly #name: string;
  readonly #document: Document.Parsed;
  readonly #lines: LineCounter;
  /** Problems found so far. */
  readonly #problems: { readonly offset: number; readonly text: string }[] = [];

  /** `name`: of the file, for messages. */
  constructor(name: string, text: string) {
    this.#name = name;
    this.#lines = new LineCounter();
    this.#document = parseDocument(text, {
      lineCounter: this.#lines,
      prettyErrors: false,
      logLevel: 'error',
    });
    for (const { pos, message, code } of this.#document.errors) {
      this.#add(
        pos[0],
        code === 'MULTIPLE_DOCS' ? 'one document is enough: nothing may follow "---"' : message,
      );
    }
    this.done(); // what can't be read has no contents that one could judge
  }

  /** Throws ConfigError CONFIG_FILE when there is no such file, CONFIG_INVALID when it can't be parsed. */
  static read(path: string): ConfigDocument {
    let text: string;
    try {
      const file = statSync(path);
      const { size } = file;
      if (!file.isFile()) throw new Error('no regular file');
      if (size > MAX_BYTES) throw new Error(`${size} bytes, ${MAX_BYTES} at most`);
      text = readFileSync(path, 'utf8');
    } catch (error) {
      throw new ConfigError('CONFIG_FILE', `${path}: ${(error as Error).message}`);
    }
    return new ConfigDocument(path, text);
  }

  /** How many have been found. */
  get problems(): number {
    return this.#problems.length;
  }

  get root(): Node {
    return this.#document.contents;
  }

  /** The pairs of a map, in order. Null: it is none. */
  entries(node: Node): readonly { readonly key: string; readonly at: Node; readonly value: Node }[] | null {
    const map = this.#target(node);
    if (!isMap(map)) return null;
    return (map as YAMLMap<Node, Node>).items.map(({ key, value }) => {
      const name = isScalar(key) ? key.value : undefined;
      return { key: typeof name === 'string' ? name : String(key), at: key, value };
    });
  }

  /** The items of a list. Null: it is none. */
  items(node: Node): readonly Node[] | null {
    const list = this.#target(node);
    return isSeq(list) ? (list as YAMLSeq<Node>).items : null;
  }

  /** A text, a number as it is written, or a truth value. Null: something else, or nothing. */
  scalar(node: Node): string | boolean | null {
    const target = this.#target(node);
    if (!isScalar(target)) return null;
    const { value, source } = target;
    if (typeof value === 'number') return source ?? String(value);
    return typeof value === 'string' || typeof value === 'boolean' ? value : null;
  }

  /** Notes a problem; `path` says to people where it is, the node to editors. */
  complain(at: Node, path: string, message: string): void {
    this.#add(at?.range?.[0] ?? 0, path === '' ? message : `${path}: ${message}`);
  }

  /** Throws ConfigError CONFIG_INVALID when there were problems, in the order of the file. */
  done(): void {
    const [first, ...others] = this.#problems
      .toSorted((a, b) => a.offset - b.offset)
      .map(({ offset, text }) => {
        const { line, col } = this.#lines.linePos(offset);
        return `${this.#name}:${Math.max(line, 1)}:${Math.max(col, 1)}: ${text}`;
      });
    if (first !== undefined) throw new ConfigError('CONFIG_INVALID', first, ...others);
  }

  #add(offset: number, text: string): void {
    this.#problems.push({ offset, text });
  }

  #target(node: Node): unknown {
    return isAlias(node) ? node.resolve(this.#document) : node;
  }
}
