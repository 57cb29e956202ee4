/** The kinds of port there are, and how a user writes them: `kind[:word][,option=value]…`. A new kind is an entry here. */
import { sink, source } from './flow.js';
import { macvtap } from './macvtap.js';
import { pcap } from './pcap.js';
import {
  MAX_LANES,
  type Port,
  type PortDescriptor,
  PortError,
  type PortHandle,
  type PortHost,
  type PortKind,
  type PortWorker,
} from './port.js';
import { switchPort } from './switch/index.js';
import { tap } from './tap.js';

const KINDS: readonly PortKind[] = [tap, macvtap, source, sink, pcap, switchPort];

/** How ports are written, for `--help`. */
export const portUsage: readonly string[] = KINDS.map(kind => kind.usage);

/** What the user's words name; nothing is opened, and values may still turn out not to be usable. Throws PortError PORT_SPEC. */
export function parsePort(spec: string): { kind: PortKind; options: ReadonlyMap<string, string> } {
  const colon = spec.indexOf(':');
  const name = colon < 0 ? spec : spec.slice(0, colon);
  const kind = KINDS.find(candidate => candidate.kind === name);
  if (!kind) {
    throw new PortError('PORT_SPEC', `no port of kind "${name}": write one of ${portUsage.join('  ')}`);
  }
  return { kind, options: parseOptions(kind, colon < 0 ? '' : spec.slice(colon + 1)) };
}

/** Opens the port that the user's words name, with at most `lanes` lanes. Throws PortError or LinuxError. */
export function openPort(spec: string, host: PortHost, lanes = 1): PortHandle {
  const { kind, options } = parsePort(spec);
  return kind.open(options, host, Math.min(lanes, MAX_LANES));
}

/** Makes the moving half of a lane, in a worker. */
export function attachPort(descriptor: PortDescriptor, worker: PortWorker): Port {
  return KINDS.find(kind => kind.kind === descriptor.kind)!.attach(descriptor, worker);
}

function parseOptions(kind: PortKind, text: string): Map<string, string> {
  const options = new Map<string, string>();
  const words = text === '' ? [] : text.split(',');
  for (const [i, word] of words.entries()) {
    const equals = word.indexOf('=');
    const isFlag = i > 0 && (kind.flags ?? []).includes(word);
    const name = isFlag ? word : equals < 0 ? '_' : word.slice(0, equals);
    if (!(isFlag || kind.options.includes(name)) || options.has(name)) {
      throw new PortError('PORT_SPEC', `${kind.kind}: "${word}" does not belong there: write ${kind.usage}`);
    }
    options.set(name, isFlag ? '' : word.slice(equals + 1));
  }
  return options;
}
