/** Configuration files: what they mean, and what is said, and where, about those that make no sense. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { ConfigDocument } from '../../src/cli/config/document.js';
import { ConfigError } from '../../src/cli/config/errors.js';
import { type FileNic, readNics } from '../../src/cli/config/nics.js';

const folder = mkdtempSync(join(tmpdir(), 'polynic-config-'));
after(() => rmSync(folder, { recursive: true }));

function read(text: string): FileNic[] {
  return readNics(new ConfigDocument('f', text));
}

/** What is said about a file that is no good. */
function problems(text: string): readonly string[] {
  try {
    read(text);
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error));
    assert.equal(error.code, 'CONFIG_INVALID');
    assert.ok(error.message.startsWith(error.problems[0]!));
    return error.problems;
  }
  return [];
}

const NIC = 'name: a, vhost-user: /s, port: sink';

test('NICs become command lines of serve, defaults included', () => {
  const nics = read(`
defaults:
  offload: [csum, tso]     # a list or a text
  device: sring_gso
  spin: true
  listen: true
nics:
  - name: vm0
    bpfhv-proxy: &folder /run/vm0.sock
    port: tap:tap0,netns=x
    spin: false
    connect: true
  - {name: 1, vhost-user: /run/1.sock, port: "switch:lan,isolated", queues: 4}
  - {"name": "vm2", "bpfhv-proxy": "/2", "port": "switch:lan", "offload": "all", "device": "vring_packed"}
`);
  assert.deepEqual(
    nics.map(({ words }) => words.toSorted()),
    [
      [
        ...['--bpfhv-proxy=/run/vm0.sock', '--connect', '--device=sring_gso', '--name=vm0'],
        ...['--offload=csum,tso', '--port=tap:tap0,netns=x'],
      ],
      [
        ...['--listen', '--name=1', '--offload=csum,tso', '--port=switch:lan,isolated', '--queues=4'],
        ...['--spin', '--vhost-user=/run/1.sock'],
      ],
      [
        ...['--bpfhv-proxy=/2', '--device=vring_packed', '--listen', '--name=vm2', '--offload=all'],
        ...['--port=switch:lan', '--spin'],
      ],
    ],
  );
  assert.deepEqual(
    nics.map(({ name, process, options }) => [name, process, options.kind, options.listens]),
    [
      ['vm0', 'NIC vm0', 'bpfhv', false],
      ['1', 'switch lan', 'virtio', true],
      ['vm2', 'switch lan', 'bpfhv', true],
    ],
  );
  assert.equal(nics[1]!.options.queues, 4);
});

test('JSON is such a file, with tabs and comments too; so is one without NICs', () => {
  const nics = read(
    `{\n\t"nics": [ # the only one\n\t\t{"name": "a", "vhost-user": "/s",\n\t\t"port": "sink"}\n\t]\n}\n`,
  );
  assert.deepEqual(nics[0]!.words, ['--name=a', '--vhost-user=/s', '--port=sink']);
  assert.deepEqual(read('nics: []'), []);
});

/** In each text, a § stands before every place that is complained about. */
const WRONG: readonly (readonly [title: string, text: string, ...says: RegExp[]])[] = [
  ['nothing', '§', /^a map is expected, with a list "nics"$/],
  ['no map', '§- a', /^a map is expected/],
  ['no list', '§defaults: {spin: true}', /^nics: a list of NICs is expected$/],
  ['a map for a list', 'nics:\n  §a: 1', /^nics: a list of NICs is expected$/],
  ['an unknown key', 'nics: []\n§nic: 1', /^nic: no such key: there are nics, defaults$/],
  ['a bracket that is not closed', 'nics: [a§', /./],
  ['a key twice', `nics: [{${NIC},\n §name: b}]`, /^Map keys must be unique$/],
  ['two documents', 'nics: []\n§---\na: 1', /^one document is enough/],
  ['an alias of nothing', 'nics: §*x', /x/],
  ['a NIC that is none', 'nics:\n  - §vm0', /^nics\[0\]: a map of options is expected$/],
  ['a NIC that is empty', 'nics:\n  -§\n', /^nics\[0\]: a map of options is expected$/],
  ['a list that holds itself', 'nics: &n [§*n]', /^nics\[0\]: a map of options is expected$/],
  ['no name', 'nics:\n  - §port: sink', /^nics\[0\]: it has no name$/],
  [
    'no socket',
    'nics:\n  - §{name: a, port: sink}',
    /^nics\[0\]: write bpfhv-proxy SOCKET, vhost-user SOCKET or vfio-user SOCKET$/,
  ],
  ['no port', 'nics:\n  - §{name: a, vhost-user: /s}', /^nics\[0\]: write port SPEC: /],
  [
    'an unknown option',
    `nics: [{${NIC}, §frob: 1}]`,
    /^nics\[0\]\.frob: no such option: there are bpfhv-proxy, /,
  ],
  ['an option that is not of a NIC', `nics: [{${NIC}, §pidfile: x}]`, /^nics\[0\]\.pidfile: no such option/],
  ['an option with its dashes', `nics: [{${NIC}, §--spin: true}]`, /^nics\[0\]\.--spin: no such option/],
  [
    'a number out of range',
    `nics: [{${NIC}, queues: §99}]`,
    /^nics\[0\]\.queues: takes a whole number from 1 to 32, not "99"$/,
  ],
  [
    'a number in other words',
    `nics: [{${NIC}, bufs: §1e3}]`,
    /^nics\[0\]\.bufs: takes a power of two.*not "1e3"$/,
  ],
  ['a flag that is a word', `nics: [{${NIC}, spin: §yes}]`, /^nics\[0\]\.spin: true or false is expected$/],
  ['a value that is a flag', `nics: [{${NIC}, pcap: §true}]`, /^nics\[0\]\.pcap: a value is expected$/],
  ['a value that is missing', 'nics:\n- name:§\n  port: sink', /^nics\[0\]\.name: a value is expected$/],
  ['a value that is a map', 'nics: [{name: §{}}]', /^nics\[0\]\.name: a value is expected$/],
  [
    'a list where there is none',
    `nics: [{${NIC}, queues: §[1]}]`,
    /^nics\[0\]\.queues: a value is expected$/,
  ],
  [
    'a list with something else',
    `nics: [{${NIC}, offload: §[csum, {}]}]`,
    /^nics\[0\]\.offload: a value is expected$/,
  ],
  [
    'an unknown offload',
    `nics: [{${NIC}, offload: §[csum, fast]}]`,
    /^nics\[0\]\.offload: takes .*, not "csum,fast"$/,
  ],
  ['control characters', 'nics: [{name: §"a\\n"}]', /^nics\[0\]\.name: control characters/],
  ['a name that is none', 'nics: [{name: §../a}]', /^nics\[0\]\.name: takes letters, .*, not "\.\.\/a"$/],
  [
    'a descriptor',
    'nics: [{name: a, vhost-user: §"fd:3", port: sink}]',
    /^nics\[0\]\.vhost-user: a path is expected/,
  ],
  [
    'an unknown port',
    'nics: [{name: a, vhost-user: /s, port: §foo:x}]',
    /^nics\[0\]\.port: no port of kind "foo"/,
  ],
  [
    'an option that the port has not',
    'nics: [{name: a, vhost-user: /s, port: §"sink:len=1"}]',
    /^nics\[0\]\.port: sink: "len=1"/,
  ],
  [
    'an unknown ring format',
    'nics: [{name: a, bpfhv-proxy: /s, port: sink, device: §foo}]',
    /^nics\[0\]\.device: there is no device type "foo"/,
  ],
  ['a ring format for virtio', `nics: [{${NIC}, device: §sring}]`, /^nics\[0\]: device is for bpfhv-proxy/],
  [
    'an offload that the format has not',
    'nics: [{name: a, bpfhv-proxy: /s, port: sink, offload: §tso}]',
    /^nics\[0\]: offload: device type sring/,
  ],
  [
    'two sockets',
    `nics: [{${NIC}, bpfhv-proxy: §/t}]`,
    /^nics\[0\]: option 'bpfhv-proxy <socket>' cannot be used with/,
  ],
  [
    'two ways to meet',
    `nics: [{${NIC}, connect: §true, listen: true}]`,
    /^nics\[0\]: option 'connect' cannot be used with/,
  ],
  ['defaults that are none', 'defaults: §1\nnics: []', /^defaults: a map of options is expected$/],
  ['defaults of what each has', 'defaults: {name: §a}\nnics: []', /^defaults\.name: each NIC has its own$/],
  ['a default out of range', 'defaults:\n  queues: §0\nnics: []', /^defaults\.queues: takes a whole number/],
  [
    'a name twice',
    'nics:\n- {name: a, vhost-user: /1, port: sink}\n- §{name: a, vhost-user: /2, port: sink}',
    /^nics\[1\]: the name a is that of nics\[0\] too$/,
  ],
  [
    'a socket twice',
    'nics:\n- {name: a, vhost-user: /x/../1, port: sink}\n- §{name: b, bpfhv-proxy: /1, port: sink}',
    /^nics\[1\]: the socket \/1 is that of nics\[0\] too$/,
  ],
  [
    'an interface twice',
    'nics:\n- {name: a, vhost-user: /1, port: tap:t}\n- §{name: b, vhost-user: /2, port: "tap:t,mac=02:00:00:00:00:01"}',
    /^nics\[1\]: the interface t is that of nics\[0\] too$/,
  ],
  [
    'a capture twice',
    'nics:\n- {name: a, vhost-user: /1, port: "pcap:out=/c"}\n- §{name: b, vhost-user: /2, port: sink, pcap: /c}',
    /^nics\[1\]: the file \/c is that of nics\[0\] too$/,
  ],
  [
    'several mistakes, in the order of the file',
    `nics:\n- {${NIC}, bufs: §1}\n- §frob\n- {name: b, port: §x}`,
    /^nics\[0\]\.bufs/,
    /^nics\[1\]/,
    /^nics\[2\]\.port/,
  ],
];

/** The places of the marks, as editors count, and the text without them. */
function unmark(marked: string): { text: string; places: string[] } {
  const pieces = marked.split('§');
  const places = pieces.slice(1).map((_, i) => {
    const lines = pieces
      .slice(0, i + 1)
      .join('')
      .split('\n');
    return `${lines.length}:${lines.at(-1)!.length + 1}`;
  });
  return { text: pieces.join(''), places };
}

for (const [title, marked, ...says] of WRONG) {
  test(`refused: ${title}`, () => {
    const { text, places } = unmark(marked);
    const found = problems(text);
    assert.equal(found.length, says.length, found.join('\n'));
    for (const [i, problem] of found.entries()) {
      const [, place, message] = /^f:(\d+:\d+): (.*)$/s.exec(problem)!;
      assert.match(message!, says[i]!);
      assert.equal(place, places[i], problem);
    }
  });
}

test('interfaces of the same name in two namespaces are two; a file may be read twice', () => {
  const nics = read(`nics:
- {name: a, vhost-user: /1, port: "tap:t,netns=x"}
- {name: b, vhost-user: /2, port: "tap:t,netns=y"}
- {name: c, vhost-user: /3, port: "pcap:in=/c"}
- {name: d, vhost-user: /4, port: "pcap:in=/c"}`);
  assert.equal(nics.length, 4);
});

test('the first of several mistakes is the message, with how many more there are', () => {
  assert.throws(() => read('nics: [1, 2]'), {
    name: 'ConfigError',
    message: 'f:1:8: nics[0]: a map of options is expected (and 1 more: --check shows them)',
  });
});

test('a file that is not there, a folder, one without end', () => {
  const long = join(folder, 'long');
  writeFileSync(long, Buffer.alloc((1 << 20) + 1, '#'));
  for (const [path, says] of [
    [join(folder, 'none'), /none: ENOENT/],
    [folder, /no regular file/],
    [long, /long: 1048577 bytes, 1048576 at most/],
    ['/dev/zero', /no regular file/],
  ] as const) {
    assert.throws(() => ConfigDocument.read(path), { code: 'CONFIG_FILE', message: says });
  }
});
