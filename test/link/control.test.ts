/** Real processes looked at and changed through their control sockets, by the commands that people type, while frames move. Needs no rights. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { ChildCounters } from '../../src/observe/child-report.js';
import { Program } from './program.js';

const POLYNIC = fileURLToPath(new URL('../../../bin/polynic.js', import.meta.url));
const LIMIT_MS = 120_000;

const runtime = mkdtempSync(join(tmpdir(), 'polynic-control-'));
process.env.XDG_RUNTIME_DIR = runtime;
after(() => rmSync(runtime, { recursive: true }));

/** Runs a command to its end. */
async function polynic(...words: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const program = new Program(words);
  const { code } = await program.ended;
  return { code, stdout: program.stdout, stderr: program.stderr };
}

/** What a command prints that must end well. */
async function says(...words: string[]): Promise<string> {
  const { code, stdout, stderr } = await polynic(...words);
  assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
  return stdout;
}

/** One that must fail, with one line on stderr. */
async function fails(code: number, message: RegExp, ...words: string[]): Promise<void> {
  const result = await polynic(...words);
  assert.match(result.stderr, /^polynic: .*\n$/);
  assert.match(result.stderr, message);
  assert.equal(result.code, code);
  assert.equal(result.stdout, '');
}

/** A guest that sends numbered frames to a NIC that takes them, both running, for as long as `body` takes. */
async function withLink(body: (guest: Program, serve: Program) => Promise<void>): Promise<void> {
  const socket = join(runtime, 'nic.sock');
  const guest = new Program(['guest', '--bpfhv-proxy', socket, '--netdev', 'source', '-v']);
  // Slowly: it is the commands that are to have the processor.
  const serve = new Program([
    ...['serve', '--bpfhv-proxy', socket, '--port', 'sink', '--sleep-us', '1000', '-v'],
  ]);
  try {
    await guest.says(/device running/);
    await body(guest, serve);
  } finally {
    for (const program of [guest, serve]) if (program.alive) await program.end();
  }
  assert.deepEqual(readdirSync(join(runtime, 'polynic')), [], 'sockets are left');
  for (const { ending, output } of [guest, serve]) assert.equal(ending?.code, 0, output);
}

test('ls, stats, dump while frames move', { timeout: LIMIT_MS }, () =>
  withLink(async (guest, serve) => {
    const rows = JSON.parse(await says('ls', '--json')) as Record<string, unknown>[];
    const socket = join(runtime, 'nic.sock');
    const both = { socket, connected: true, running: true, queues: 2 };
    assert.deepEqual(
      rows.map(({ packetsPerSecond, ...row }) => {
        assert.ok((packetsPerSecond as number) > 0, `${row.name} moves nothing`);
        return row;
      }),
      [
        {
          name: 'guest',
          pid: guest.pid,
          role: 'guest',
          device: null,
          port: 'source',
          ...both,
          features: null,
        },
        {
          name: 'nic',
          pid: serve.pid,
          role: 'serve',
          device: 'sring',
          port: 'sink',
          ...both,
          features: '0x0',
        },
      ],
    );
    const lines = (await says('ls')).trimEnd().split('\n');
    assert.match(lines[0]!, /^NAME +ROLE +PID +DEVICE +PORT +STATE +PACKETS\/S$/);
    assert.match(lines[1]!, new RegExp(`^guest +guest +${guest.pid} +- +source +running +\\d+$`));
    assert.match(lines[2]!, new RegExp(`^nic +serve +${serve.pid} +sring +sink +running +\\d+$`));

    const [before, later] = [await says('stats', 'nic', '--json'), await says('stats', 'nic', '--json')].map(
      text => JSON.parse(text) as ChildCounters,
    );
    const sent = ({ queues }: ChildCounters) => queues.find(({ direction }) => direction === 'tx')!.packets;
    assert.ok(sent(later!) > sent(before!) && sent(before!) > 0);
    assert.equal(later!.flow!.outOfOrder, 0);
    assert.match(
      await says('stats', 'nic'),
      /^queue +packets +bytes .*\n0 rx +0 .*\n1 tx +[1-9]\d* .*\nport +received 0 {2}sent \d+/,
    );
    assert.match(await says('stats', 'guest'), /^probes +1\n/m);

    assert.match(
      await says('dump', 'nic'),
      /^device sring, .*rx on, tx on\nqueue 0 rx: 256 descriptors, context 0x1[0-9a-f]{8}, fault none\n {2}ring +prod 256 {2}cons 0 /,
    );
    assert.match(
      await says('dump', 'guest'),
      /^driver running, .*\nqueue 0 rx: 256 buffers, .* posted 256, free 0, fault none\n.*\ndevice, by its registers\n {2}status link /s,
    );

    const watch = new Program(['stats', 'nic', '--watch', '1']);
    await watch.says(/^tx [1-9]\d*\.\d kpps .*\nrx 0\.0 kpps .*\n/);
    await serve.end();
    await watch.ended;
    assert.equal(watch.ending!.code, 1);
    assert.match(watch.stderr, /^polynic: no process is called "nic": there is guest\n$/);
  }),
);

test('upgrade: format, port and way of waiting, under traffic', { timeout: LIMIT_MS }, () =>
  withLink(async () => {
    assert.match(
      await says('upgrade', 'nic', '--device', 'vring_packed'),
      /^nic: from sring to vring_packed, in \d+\.\d ms\n$/,
    );
    const { ms, ...report } = JSON.parse(
      await says('upgrade', 'nic', '--device', 'sring_gso', '--offload', 'csum', '--json'),
    );
    assert.deepEqual(report, { outcome: 'done', from: 'vring_packed', to: 'sring_gso' });
    assert.ok(ms > 0);
    assert.match(await says('upgrade', 'nic', '--spin'), /^nic: changed, still sring_gso, in /);
    assert.match(
      await says('upgrade', 'nic', '--poll', '--port', 'source:len=100'),
      /^nic: changed, still sring_gso/,
    );
    const [, nic] = JSON.parse(await says('ls', '--json')) as Record<string, unknown>[];
    assert.deepEqual([nic!.device, nic!.port, nic!.features], ['sring_gso', 'source:len=100', '0x7']);
    assert.match(await says('dump', 'nic'), /^device sring_gso, features 0x7 of 0x7, /);

    await fails(2, /to what\?/, 'upgrade', 'nic');
    await fails(2, /"foo".*sring/, 'upgrade', 'nic', '--device', 'foo');
    await fails(2, /--offload/, 'upgrade', 'nic', '--offload', 'fast');
    await fails(2, /no port of kind "foo"/, 'upgrade', 'nic', '--port', 'foo');
    await fails(2, /--poll.*--spin|--spin.*--poll/, 'upgrade', 'nic', '--spin', '--poll');
    await fails(1, /none-such.*ENOENT/, 'upgrade', 'nic', '--port', 'tap:t,netns=none-such');
    await fails(1, /follows its backend/, 'upgrade', 'guest', '--device', 'sring');
    await fails(1, /no process is called "none": there is guest, nic$/m, 'upgrade', 'none', '--spin');
    const after = JSON.parse(await says('stats', 'nic', '--json')) as ChildCounters;
    const later = JSON.parse(await says('stats', 'nic', '--json')) as ChildCounters;
    for (const i of [0, 1])
      assert.ok(later.queues[i]!.packets > after.queues[i]!.packets, `queue ${i} stands still`);
  }),
);

test('nobody runs: an empty list, and a name that is not there', async () => {
  assert.equal(await says('ls'), '');
  assert.equal(await says('ls', '--json'), '[]\n');
  for (const command of ['stats', 'dump']) {
    await fails(1, /no process is called "nic": none is running/, command, 'nic');
    await fails(1, /"a b" is no name/, command, 'a b');
    await fails(1, /connect \/none\/x\.sock: ENOENT/, command, '/none/x.sock');
    await fails(2, /name/, command);
  }
  await fails(
    2,
    /--name takes letters/,
    'serve',
    '--bpfhv-proxy',
    '/none/s',
    '--port',
    'sink',
    '--name',
    'a/b',
  );
});

test('a parent asks its child over stdin, and gets answers in order; the child has no socket', async () => {
  const words = [
    'serve',
    '--bpfhv-proxy',
    join(runtime, 'child'),
    '--listen',
    '--port',
    'sink',
    '--stats',
    '1',
  ];
  const child = spawn(process.execPath, [POLYNIC, ...words, '--child-of', String(process.pid)], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  while (!String((await lines.next()).value).startsWith('rx 0.0 kpps')); // it runs
  child.stdin.write('{"op":"info"}\nhello\n{"op":"dump"}\n');
  const replies: unknown[] = [];
  while (replies.length < 3) {
    const line = String((await lines.next()).value);
    if (line.startsWith('{')) replies.push((JSON.parse(line) as { reply: unknown }).reply);
  }
  const [info, refused, dump] = replies as [
    { ok: { pid: number } },
    { error: { code: string } },
    { ok: string },
  ];
  assert.equal(info.ok.pid, child.pid);
  assert.equal(refused.error.code, 'CONTROL_REQUEST');
  assert.match(dump.ok, /^device sring, /);
  assert.equal(await says('ls'), '');
  child.stdin.write('{"op":"leave"}\n');
  assert.deepEqual(await once(child, 'close'), [0, null]);
});
