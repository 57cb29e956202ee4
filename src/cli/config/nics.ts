/**
 * What a configuration file has to say: `nics`, a list, and `defaults` for all of them.
 *
 * ```
 *   defaults: {offload: csum}          every NIC, where it says nothing else
 *   nics:
 *     - name: vm0                      polynic serve --name=vm0 --offload=csum
 *       vhost-user: /run/vm0.sock                    --vhost-user=/run/vm0.sock
 *       port: tap:tap0                               --port=tap:tap0
 * ```
 */
import { parsePort } from '../../port/registry.js';
import type { NicOptions } from '../nic-options.js';
import type { ConfigDocument, Node } from './document.js';
import { claimsOf, inKeys, parseWords, readSettings, type Settings, wordsOf } from './settings.js';

/** A NIC of the file. */
export interface FileNic {
  readonly name: string;
  /** The command line of `polynic serve` that describes it. */
  readonly words: readonly string[];
  /** … and what that means. */
  readonly options: NicOptions;
  /** As it is written, by option. */
  readonly settings: ReadonlyMap<string, string | boolean>;
  /** NICs with the same one share a process: those of one switch. */
  readonly process: string;
  /** What no other NIC may have at the same time. */
  readonly claims: readonly string[];
}

/** Each NIC has its own. */
const NO_DEFAULTS: ReadonlySet<string> = new Set([
  'name',
  'bpfhv-proxy',
  'vhost-user',
  'vfio-user',
  'pcap',
  'mac',
]);

/** What a NIC says of itself makes these defaults mean nothing. */
const OVERRIDES: Readonly<Record<string, readonly string[]>> = {
  'vhost-user': ['device', 'adaptive'],
  connect: ['listen'],
  listen: ['connect'],
};

/** The NICs of the file. Throws ConfigError CONFIG_INVALID with all that is wrong. */
export function readNics(file: ConfigDocument): FileNic[] {
  const top = file.entries(file.root);
  if (!top) file.complain(file.root, '', 'a map is expected, with a list "nics"');
  for (const { key, at } of top ?? []) {
    if (key !== 'nics' && key !== 'defaults') file.complain(at, key, 'no such key: there are nics, defaults');
  }
  const find = (name: string) => top?.find(({ key }) => key === name);
  const defaults = readDefaults(file, find('defaults')?.value ?? null);
  const list = find('nics');
  const items = list ? file.items(list.value) : null;
  if (top && !items)
    file.complain(list?.value ?? list?.at ?? file.root, 'nics', 'a list of NICs is expected');
  file.done(); // NICs are judged on defaults that make sense

  const owners = new Map<string, string>();
  const nics = (items ?? []).flatMap((item, i) => {
    const path = `nics[${i}]`;
    const nic = readNic(file, item, path, defaults);
    for (const claim of nic?.claims ?? []) {
      const owner = owners.get(claim);
      if (owner !== undefined) file.complain(item, path, `${claim} is that of ${owner} too`);
      else owners.set(claim, path);
    }
    return nic ? [nic] : [];
  });
  file.done();
  return nics;
}

function readDefaults(file: ConfigDocument, node: Node): Settings {
  if (!node) return new Map();
  const defaults = readSettings(file, node, 'defaults');
  for (const [key, { at }] of defaults) {
    if (NO_DEFAULTS.has(key)) file.complain(at, `defaults.${key}`, 'each NIC has its own');
  }
  return defaults;
}

/** Null: something is wrong, which has been said. */
function readNic(file: ConfigDocument, node: Node, path: string, defaults: Settings): FileNic | null {
  const before = file.problems;
  const own = readSettings(file, node, path);
  if (file.problems > before) return null;
  if (!own.has('name')) {
    file.complain(node, path, 'it has no name');
    return null;
  }
  const overridden = [...own.keys()].flatMap(key => OVERRIDES[key] ?? []);
  const inherited = [...defaults].filter(([key]) => !overridden.includes(key));
  const settings = new Map([...inherited, ...own]);
  const words = wordsOf(settings);
  try {
    const options = parseWords(words);
    return {
      ...{ name: options.name!, words, options, claims: claimsOf(options) },
      settings: new Map([...settings].map(([key, { value }]) => [key, value])),
      process: processOf(options),
    };
  } catch (error) {
    const { message } = error as Error;
    // It is at the first of the options that the message names.
    const named = [...message.matchAll(/--([a-z-]+)/g)].flatMap(([, key]) => own.get(key!)?.at ?? []);
    file.complain(named[0] ?? node, path, inKeys(message));
    return null;
  }
}

/** A switch joins NICs within a process; any other has one to itself, so that tenants share nothing. */
function processOf({ name, port }: NicOptions): string {
  const { kind, options } = parsePort(port);
  return kind.kind === 'switch' ? `switch ${options.get('_')}` : `NIC ${name}`;
}
