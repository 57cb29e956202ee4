/** `polynic serve --config`: NICs of every kind from one file, a file that changes under traffic, processes that die; no packet of the others is lost. */
import assert from 'node:assert/strict';
import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { eventually } from '../../src/linux/testing.js';
import { Program } from './program.js';
import { type Site, siteTest } from './site.js';
import { tcpTransfer } from './traffic.js';

const LAN = { port: 'switch:lan' };
/** A NIC whose guest sends without end leaves the processor to others. */
const SLOW = { port: 'sink', 'sleep-us': 1000 };
const PATIENCE_MS = 30_000;

/** Two guests at a switch, with datagrams between them. */
async function twoAtASwitch(site: Site, seed: number) {
  const [a, b] = [await site.guest(), await site.guest()];
  return site.flows(a, b, seed);
}

siteTest('guests of three kinds at a switch, in one process; another NIC in its own', async site => {
  site.write([
    { name: 'vm0', ...LAN },
    { name: 'vm1', ...LAN, device: 'vring_packed' },
    { name: 'vm2', ...LAN, 'vhost-user': site.socket('vm2') },
    { name: 'vm3', ...SLOW, device: 'sring_gso' },
  ]);
  await site.start();
  const ends = [await site.guest(), await site.guest(), await site.guest('vhost-user', '--packed')];
  const sender = site.sender('vm3');
  await sender.says(/device running/);
  let seed = 101;
  for (const [i, from] of ends.entries()) {
    for (const to of ends.slice(i + 1)) {
      const { settle } = await site.flows(from, to, seed);
      await settle();
      const { sent, got } = await tcpTransfer(to, from, { seed, bytes: 3e6 });
      assert.equal(got.sha256, sent.sha256);
      seed += 2;
    }
  }
  const listed = await site.list();
  assert.deepEqual(
    listed.map(({ name, device, port, running }) => [name, device, port, running]),
    [
      ['vm0', 'sring', 'switch:lan', true],
      ['vm1', 'vring_packed', 'switch:lan', true],
      ['vm2', 'virtio', 'switch:lan', true],
      ['vm3', 'sring_gso', 'sink', true],
    ],
  );
  const pids = listed.map(({ pid }) => pid);
  assert.deepEqual([pids[1], pids[2]], [pids[0], pids[0]]);
  assert.equal(new Set([...pids, site.serve.pid]).size, 3);

  // Who is told what: the file says which NICs there are.
  const leave = await answerOf('vm3', '{"op":"leave"}', site);
  assert.match(leave, /CONTROL_UNSUPPORTED/);
  assert.deepEqual(await site.serve.end(), { code: 0, signal: null });
  for (const name of ['vm0', 'vm1', 'vm3']) {
    assert.match(
      site.serve.stderr,
      new RegExp(`info ${name}: tx disabled\n.*info ${name}: hypervisor gone`, 's'),
    );
  }
  assert.doesNotMatch(site.serve.stderr, / (error|warn) (?!.*waiting for a hypervisor)/);
});

siteTest(
  'SIGHUP: NICs come, change, go, without a lost packet of others; a bad file changes nothing',
  async site => {
    const two = [
      { name: 'vm0', ...LAN },
      { name: 'vm1', ...LAN },
    ];
    site.write(two);
    await site.start();
    const { more, settle } = await twoAtASwitch(site, 121);
    const { pid } = (await site.list())[0]!;
    const step = async (nics: Parameters<Site['write']>[0], said: string): Promise<void> => {
      site.write(nics);
      assert.equal(await site.reload(), said);
      await more();
    };

    await step(two, 'closed none; changed none; opened none');
    const vm2 = { name: 'vm2', ...SLOW };
    await step([...two, vm2], 'closed none; changed none; opened vm2');
    const sender = site.sender('vm2');
    await sender.says(/device running/);
    const listed = async () => (await site.list()).find(({ name }) => name === 'vm2')!;
    const own = (await listed()).pid;
    await step([...two, { ...vm2, device: 'vring_packed' }], 'closed none; changed vm2; opened none');
    await step(
      [{ ...vm2, device: 'vring_packed', port: 'source:len=100', spin: true }, ...two],
      'closed none; changed vm2; opened none',
    );
    const changed = await listed();
    assert.deepEqual([changed.device, changed.port, changed.pid], ['vring_packed', 'source:len=100', own]);

    // A bad file: one line, and nothing happens.
    const { length } = site.serve.stderr;
    site.write('nics:\n  - {name: vm0, port: sink}\n  - {name: vm2, port: "frob:"}\n');
    process.kill(site.serve.pid, 'SIGHUP');
    await site.serve.says(/everything stays/, { after: length });
    const [line, ...others] = site.serve.stderr.slice(length).trimEnd().split('\n');
    assert.match(
      line!,
      / error serve: everything stays as it is: .*nics\.json:2:5: nics\[0\]: write bpfhv-proxy .* \(and 1 more: /,
    );
    assert.deepEqual(others, []);
    await more();
    assert.equal((await site.list()).length, 3);

    // A capture: that NIC alone is opened anew, in its process, and its guest finds it again.
    const before = sender.stderr.length;
    const capture = join(site.folder, 'capture');
    await step([...two, { ...vm2, pcap: capture }], 'closed vm2; changed none; opened vm2');
    await sender.says(/device running/, { after: before });
    assert.ok(existsSync(capture));
    assert.equal((await listed()).pid, own);
    // A port that can not be opened: it stays as it is.
    await step(
      [...two, { ...vm2, pcap: capture, port: 'tap:t,netns=none-such' }],
      'closed none; changed vm2; opened none',
    );
    assert.match(site.serve.stderr, / error serve: vm2 stays as it is: .*none-such/);
    await step(two, 'closed vm2; changed none; opened none');
    rmSync(capture);
    assert.ok(!existsSync(`/proc/${own}`), 'its process has nothing to do any more');

    // Those with the traffic change themselves.
    await step([{ ...two[0]!, device: 'vring_packed' }, two[1]!], 'closed none; changed vm0; opened none');
    await step(
      [
        { ...two[0]!, device: 'vring_packed' },
        { ...two[1]!, spin: true },
      ],
      'closed none; changed vm1; opened none',
    );
    const last = await site.list();
    assert.deepEqual(
      last.map(nic => [nic.name, nic.device, nic.pid]),
      [
        ['vm0', 'vring_packed', pid],
        ['vm1', 'sring', pid],
      ],
    );
    await settle();
    assert.deepEqual(await site.serve.end(), { code: 0, signal: null });
    await sender.end();
  },
);

siteTest('SIGHUP: virtio NICs change under their own traffic, split and packed', async site => {
  const nics = ['vm0', 'vm1'].map(name => ({ name, ...LAN, 'vhost-user': site.socket(name) }));
  site.write(nics);
  await site.start();
  const [a, b] = [await site.guest('vhost-user'), await site.guest('vhost-user', '--packed')];
  const change = async (changes: readonly object[], changed: string): Promise<void> => {
    site.write(nics.map((nic, i) => ({ ...nic, ...changes[i] })));
    assert.equal(await site.reload(), `closed none; changed ${changed}; opened none`);
  };
  const flows = await site.flows(a, b, 141);
  for (const [changes, changed] of [
    [[{ spin: true }, {}], 'vm0'],
    [[{}, { spin: true }], 'vm0, vm1'],
    [[{}, {}], 'vm1'],
  ] as const) {
    await change(changes, changed);
    await flows.more();
  }
  await flows.settle();

  // With another port goes what waited at the former one, as with another cable; nothing goes behind it.
  await change([{ port: 'switch:lan,isolated' }, {}], 'vm0');
  await (await site.flows(a, b, 143)).settle();
  assert.deepEqual(await site.serve.end(), { code: 0, signal: null });
});

siteTest('a process that is killed is started again with its NICs; the others lose nothing', async site => {
  site.write([
    { name: 'vm0', ...LAN },
    { name: 'vm1', ...LAN },
    { name: 'vm2', ...SLOW },
  ]);
  await site.start();
  const { more, settle } = await twoAtASwitch(site, 131);
  const sender = site.sender('vm2');
  await sender.says(/device running/);
  const before = (await site.list()).find(({ name }) => name === 'vm2')!;
  const { length } = sender.stderr;
  process.kill(before.pid, 'SIGKILL');
  await sender.says(/device running/, { after: length });
  assert.match(site.serve.stderr, / error serve: vm2 has lost its process: SIGKILL; it is tried again\n/);
  const after = (await site.list()).find(({ name }) => name === 'vm2')!;
  assert.notEqual(after.pid, before.pid);
  await more();
  await settle();

  // Who holds them all dies: so do they, and the next one finds the place free.
  const pids = (await site.list()).map(({ pid }) => pid);
  assert.deepEqual(await site.serve.end('SIGKILL'), { code: null, signal: 'SIGKILL' });
  await eventually(() => pids.every(pid => !existsSync(`/proc/${pid}`)), PATIENCE_MS);
  await site.start();
  await eventually(() => site.serve.stderr.match(/rx enabled/g)?.length === 3, PATIENCE_MS);
  assert.equal((await site.list()).filter(({ running }) => running).length, 3);
  assert.deepEqual(await site.serve.end(), { code: 0, signal: null });
});

siteTest('a NIC that can not be opened holds up no other, and is there when it can be', async site => {
  const taken = new Program([
    'serve',
    '--vhost-user',
    site.socket('other'),
    '--port',
    'sink',
    '--name',
    'vm1',
    '-v',
  ]);
  try {
    await taken.says(/control socket/);
    site.write([
      { name: 'vm0', port: 'sink' },
      { name: 'vm1', port: 'sink' },
    ]);
    await site.start();
    await site.serve.says(
      / error serve: vm1 can't be opened: the name "vm1" is taken: .*; it is tried again\n/,
    );
    const sender = site.sender('vm0');
    await sender.says(/device running/);
  } finally {
    await taken.end();
  }
  await site.serve.says(/ info serve: vm1 is open/);
  assert.equal(site.serve.stderr.match(/vm1 can't be opened/g)!.length, 1);
  assert.deepEqual(await site.serve.end(), { code: 0, signal: null });
});

siteTest('--check and a bad file: every line names its place; nothing is opened', async site => {
  const file = join(site.folder, 'nics.json');
  const run = async (...words: string[]) => {
    const program = new Program(['serve', '--config', file, ...words]);
    const { code } = await program.ended;
    return { code, stdout: program.stdout, stderr: program.stderr };
  };
  site.write([
    { name: 'vm0', ...LAN },
    { name: 'vm1', ...LAN },
    { name: 'vm2', port: 'tap:t,netns=none-such' },
  ]);
  assert.deepEqual(await run('--check'), { code: 0, stdout: `${file}: 3 NICs in 2 processes\n`, stderr: '' });
  writeFileSync(file, 'nics:\n- {name: a}\n- {port: x}\n');
  const both = [
    `polynic: ${file}:2:3: nics[0]: write `,
    `polynic: ${file}:3:10: nics[1].port: no port of kind "x"`,
  ];
  const check = await run('--check');
  assert.deepEqual([check.code, check.stdout], [2, '']);
  const lines = check.stderr.trimEnd().split('\n');
  assert.equal(lines.length, 2);
  for (const [i, line] of lines.entries()) assert.ok(line.startsWith(both[i]!), line);
  const start = await run();
  assert.deepEqual([start.code, start.stdout], [2, '']);
  assert.match(start.stderr, /^polynic: .*nics\.json:2:3: .* \(and 1 more: --check shows them\)\n$/);
  for (const [words, says] of [
    [['--port', 'sink'], /^polynic: --port does not go with --config/],
    [['--stats'], /^polynic: --stats does not go with --config/],
  ] as const) {
    const refused = await run(...words);
    assert.equal(refused.code, 2);
    assert.match(refused.stderr, says);
  }
  writeFileSync(file, 'nics: []');
  await site.start();
  assert.deepEqual(await site.serve.end('SIGINT'), { code: 0, signal: null });
});

/** What a control socket answers. */
async function answerOf(name: string, request: string, site: Site): Promise<string> {
  const { connect } = await import('node:net');
  const socket = connect(join(site.folder, 'polynic', `${name}.sock`));
  socket.write(`${request}\n`);
  for await (const answer of socket) {
    socket.destroy();
    return String(answer);
  }
  return '';
}
