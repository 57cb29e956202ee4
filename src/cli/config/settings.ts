/**
 * Options of `polynic serve` as keys of a map: each is an option without its dashes, and is checked by what checks the option on a command line; so
 * what can be written there can be written here.
 */
import { resolve } from 'node:path';
import { Command, type Option } from '@commander-js/extra-typings';
import { parsePort } from '../../port/registry.js';
import { type NicOptions, nicOptions, readNicOptions } from '../nic-options.js';
import type { ConfigDocument, Node } from './document.js';

/** By option; a flag is true or false. */
export type Settings = ReadonlyMap<string, { readonly value: string | boolean; readonly at: Node }>;

const OPTIONS: ReadonlyMap<string, Option> = new Map(
  command().options.map(option => [option.name(), option as Option]),
);
const KEYS = [...OPTIONS.keys()].join(', ');

/** The pairs of a map, each checked by itself; those that are wrong are complained about and left out. */
export function readSettings(file: ConfigDocument, node: Node, path: string): Settings {
  const settings = new Map<string, { value: string | boolean; at: Node }>();
  const entries = file.entries(node);
  if (!entries) file.complain(node, path, 'a map of options is expected');
  for (const { key, at, value } of entries ?? []) {
    const option = OPTIONS.get(key);
    if (!option) {
      file.complain(at, `${path}.${key}`, `no such option: there are ${KEYS}`);
      continue;
    }
    try {
      settings.set(key, { value: readValue(file, option, value), at: value ?? at });
    } catch (error) {
      file.complain(value ?? at, `${path}.${key}`, inKeys((error as Error).message, key));
    }
  }
  return settings;
}

/** The command line that says the same. */
export function wordsOf(settings: Settings): string[] {
  return [...settings].flatMap(([key, { value }]) =>
    value === false ? [] : value === true ? [`--${key}`] : [`--${key}=${value}`],
  );
}

/** What such a command line means. Throws UsageError, CommanderError. */
export function parseWords(words: readonly string[]): NicOptions {
  const parsed = command();
  parsed.parse(words, { from: 'user' });
  return readNicOptions(parsed);
}

/** A message about options in the words of the file; `key`: where it is said about that one. */
export function inKeys(message: string, key?: string): string {
  const plain = message.replace(/^error: /, '').replace(/--([a-z])/g, '$1');
  return key !== undefined && plain.startsWith(key) ? plain.slice(key.length).replace(/^[: ]+/, '') : plain;
}

/** What nobody else may have at the same time: words for people, by which it is also known. */
export function claimsOf({ name, path, control, pcap, port }: NicOptions): string[] {
  const { kind, options } = parsePort(port);
  const file = (path: string) => `the file ${resolve(path)}`;
  return [
    `the name ${name}`,
    `the socket ${resolve(path)}`,
    ...(control === undefined || control === 'none' ? [] : [`the socket ${resolve(control)}`]),
    ...(pcap === undefined ? [] : [file(pcap)]),
    ...portClaims(kind.kind, options).map(claim => (kind.kind === 'pcap' ? file(claim) : claim)),
  ];
}

function portClaims(kind: string, options: ReadonlyMap<string, string>): string[] {
  const netns = options.get('netns');
  if (kind === 'tap' || kind === 'macvtap') {
    return [`the interface ${options.get('_')}${netns === undefined ? '' : ` in ${netns}`}`];
  }
  const target = kind === 'pcap' ? options.get('out') : undefined;
  return target === undefined ? [] : [target];
}

/** A value that its option takes. Throws an Error that says why it is none. */
function readValue(file: ConfigDocument, option: Option, node: Node): string | boolean {
  const key = option.name();
  const single = file.scalar(node);
  if (option.isBoolean()) {
    if (typeof single === 'boolean') return single;
    throw new Error('true or false is expected');
  }
  const list = key === 'offload' ? file.items(node)?.map(item => file.scalar(item)) : undefined;
  const value = list?.every(item => typeof item === 'string') ? list.join(',') : single;
  if (typeof value !== 'string' || value === '') throw new Error('a value is expected');
  if (/\p{Cc}/u.test(value)) throw new Error('control characters can not be part of it');
  option.parseArg?.(value, undefined);
  if (key === 'port') parsePort(value);
  if (SOCKETS.has(key) && /^fd:/.test(value))
    throw new Error('a path is expected: descriptors are not passed on');
  return value;
}

const SOCKETS: ReadonlySet<string> = new Set(['bpfhv-proxy', 'vhost-user', 'vfio-user']);

/** The options, in a command that neither prints nor exits. */
function command() {
  return nicOptions(new Command().exitOverride().configureOutput({ writeErr: () => {} }));
}
