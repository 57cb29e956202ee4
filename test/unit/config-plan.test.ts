/** What a changed configuration file leads to: who is closed, changed, opened, and who is left alone. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ConfigDocument } from '../../src/cli/config/document.js';
import { type FileNic, readNics } from '../../src/cli/config/nics.js';
import { plan } from '../../src/cli/config/plan.js';

/** A NIC for each text: what there is behind name and socket. */
function nics(texts: Readonly<Record<string, string>>): FileNic[] {
  const list = Object.entries(texts).map(([name, text]) => {
    const socket = text.includes('vhost-user') ? '' : `, bpfhv-proxy: /${name}`;
    return `- {name: ${name}${socket}, ${text}}`;
  });
  return readNics(new ConfigDocument('f', `nics:${list.map(line => `\n${line}`).join('') || ' []'}`));
}

/** `-name` closed, `name {wish}` changed, `+name` opened, in this order. */
function steps(before: Record<string, string>, after: Record<string, string>): string[] {
  const { close, change, open } = plan(nics(before), nics(after));
  return [
    ...close.map(({ name }) => `-${name}`),
    ...change.map(({ to, wish }) => `${to.name} ${JSON.stringify(wish)}`),
    ...open.map(({ name }) => `+${name}`),
  ];
}

const VIRTIO = 'vhost-user: /v';

const CASES: readonly (readonly [
  title: string,
  before: Record<string, string>,
  after: Record<string, string>,
  ...steps: string[],
])[] = [
  ['nothing', { a: 'port: sink' }, { a: 'port: sink' }],
  ['all are new', {}, { a: 'port: sink', b: 'port: sink' }, '+a', '+b'],
  ['all go', { a: 'port: sink', b: 'port: sink' }, {}, '-a', '-b'],
  [
    'one more, one less',
    { a: 'port: sink', b: 'port: sink' },
    { b: 'port: sink', c: 'port: sink' },
    '-a',
    '+c',
  ],
  ['another order', { a: 'port: sink', b: 'port: source' }, { b: 'port: source', a: 'port: sink' }],
  [
    'the default said aloud',
    { a: 'port: sink' },
    { a: 'port: sink, device: sring, offload: all, spin: false, adaptive: false' },
  ],
  [
    'the same list as a text',
    { a: 'port: sink, device: sring_gso, offload: [csum, tso]' },
    { a: 'port: sink, device: sring_gso, offload: "csum,tso"' },
  ],
  [
    'another format',
    { a: 'port: sink' },
    { a: 'port: sink, device: vring_packed' },
    'a {"device":"vring_packed"}',
  ],
  [
    'the usual format again',
    { a: 'port: sink, device: vring_packed, spin: true' },
    { a: 'port: sink' },
    'a {"device":"sring","spin":false}',
  ],
  [
    'all that can change',
    { a: 'port: sink' },
    { a: 'port: source, device: sring_gso, offload: csum, spin: true' },
    'a {"port":"source","device":"sring_gso","offload":"csum","spin":true}',
  ],
  [
    'something that can and something that can not',
    { a: 'port: sink' },
    { a: 'port: source, queues: 2' },
    '-a',
    '+a',
  ],
  ['a capture', { a: 'port: sink' }, { a: 'port: sink, pcap: /c' }, '-a', '+a'],
  ['no capture any more', { a: 'port: sink, pcap: /c' }, { a: 'port: sink' }, '-a', '+a'],
  ['limits', { a: 'port: sink, bufs: 64' }, { a: 'port: sink, bufs: 128' }, '-a', '+a'],
  [
    'virtio: port and way of waiting',
    { a: `${VIRTIO}, port: sink` },
    { a: `${VIRTIO}, port: source, spin: true` },
    'a {"port":"source","spin":true}',
  ],
  [
    'virtio: offloads',
    { a: `${VIRTIO}, port: sink` },
    { a: `${VIRTIO}, port: sink, offload: csum` },
    '-a',
    '+a',
  ],
  ['another protocol', { a: 'port: sink' }, { a: `${VIRTIO}, port: sink` }, '-a', '+a'],
  [
    'onto a switch',
    { a: 'port: sink', b: 'port: switch:l' },
    { a: 'port: switch:l', b: 'port: switch:l' },
    '-a',
    '+a',
  ],
  [
    'another way on the same switch',
    { a: 'port: switch:l' },
    { a: 'port: "switch:l,isolated"' },
    'a {"port":"switch:l,isolated"}',
  ],
  ['from one switch to another', { a: 'port: switch:l' }, { a: 'port: switch:m' }, '-a', '+a'],
  ['to an interface that nobody has', { a: 'port: sink' }, { a: 'port: tap:t' }, 'a {"port":"tap:t"}'],
  [
    'to the interface of one that goes',
    { a: 'port: sink', b: 'port: tap:t' },
    { a: 'port: tap:t' },
    '-b',
    'a {"port":"tap:t"}',
  ],
  [
    'to an interface that another one changes from',
    { a: 'port: sink', b: 'port: tap:t' },
    { a: 'port: tap:t', b: 'port: sink' },
    '-a',
    'b {"port":"sink"}',
    '+a',
  ],
  [
    'two swap',
    { a: 'port: tap:s', b: 'port: tap:t' },
    { a: 'port: tap:t', b: 'port: tap:s' },
    '-a',
    'b {"port":"tap:s"}',
    '+a',
  ],
  [
    'three swap',
    { a: 'port: tap:r', b: 'port: tap:s', c: 'port: tap:t' },
    { a: 'port: tap:s', b: 'port: tap:t', c: 'port: tap:r' },
    '-a',
    '-b',
    'c {"port":"tap:r"}',
    '+a',
    '+b',
  ],
  [
    'a new one gets what another one changes from',
    { a: 'port: tap:t' },
    { a: 'port: sink', b: 'port: tap:t' },
    'a {"port":"sink"}',
    '+b',
  ],
];

for (const [title, before, after, ...expected] of CASES) {
  test(title, () => assert.deepEqual(steps(before, after), expected));
}
