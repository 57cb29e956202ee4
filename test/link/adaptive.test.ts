/** `serve --adaptive` as a process, driven back and forth by its traffic: ring format and way of waiting follow, and nothing is lost. Needs no rights. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { getAffinity } from '../../src/linux/process.js';
import { Program } from './program.js';

const runtime = mkdtempSync(join(tmpdir(), 'polynic-adaptive-'));
process.env.XDG_RUNTIME_DIR = runtime;
after(() => rmSync(runtime, { recursive: true }));

/** Runs a command to its end. */
async function polynic(...words: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const program = new Program(words);
  const { code } = await program.ended;
  return { code, stdout: program.stdout, stderr: program.stderr };
}

/** Has the NIC send, or take, other frames: as soon as it is through with a change of its own. */
async function changePort(port: string): Promise<void> {
  for (;;) {
    const { code, stderr } = await polynic('upgrade', 'nic', '--port', port);
    if (code === 0) return;
    assert.match(stderr, /another upgrade is under way/);
  }
}

/** Waits until the NIC has that ring format. */
async function has(device: string): Promise<void> {
  for (;;) {
    const { code, stdout } = await polynic('ls', '--json');
    assert.equal(code, 0);
    const rows = JSON.parse(stdout) as { name: string; device: string | null }[];
    if (rows.find(({ name }) => name === 'nic')?.device === device) return;
  }
}

const LARGE = 'source:len=1500';
const SMALL = 'source:len=60';

test('large frames, small ones, large ones, none', { timeout: 240_000 }, async () => {
  const socket = join(runtime, 'nic.sock');
  const guest = new Program(['guest', '--bpfhv-proxy', socket, '--netdev', 'sink', '-v']);
  const serve = new Program([
    ...['serve', '--bpfhv-proxy', socket, '--name', 'nic', '--adaptive', '--port', LARGE],
    ...['--sleep-us', '100', '-v'], // until it spins, others have the processor as well
  ]);
  const spins = getAffinity().length > 1;
  const says = (pattern: RegExp, from: number) => serve.says(pattern, { after: from });
  try {
    const toSegments = /adaptive: sring_gso instead of sring: \d+ Mbit\/s, \d+ kpps, 1500 bytes a packet/;
    const toFastest = /adaptive: sring instead of sring_gso: \d+ Mbit\/s, \d+ kpps, 60 bytes a packet/;
    await says(toSegments, 0);
    await has('sring_gso');
    let from = serve.stderr.length;
    await changePort(SMALL);
    await says(toFastest, from);
    await has('sring');
    if (spins) await says(/adaptive: spin instead of sleeping: \d+ kpps/, 0);
    from = serve.stderr.length;
    await changePort(LARGE);
    await says(toSegments, from);
    await has('sring_gso');
    from = serve.stderr.length;
    await changePort('sink');
    if (spins) await says(/adaptive: sleep instead of spinning: 0 kpps/, from);

    const { stdout } = await polynic('stats', 'guest', '--json');
    const { flow, queues } = JSON.parse(stdout) as {
      flow: { outOfOrder: number };
      queues: { direction: string; packets: number; dropped: number; errors: number }[];
    };
    assert.equal(flow.outOfOrder, 2, 'one for each new source, which counts from 0: no frame was lost');
    const rx = queues.find(({ direction }) => direction === 'rx')!;
    assert.ok(rx.packets > 100_000, `only ${rx.packets} packets`);
    assert.deepEqual([rx.dropped, rx.errors], [0, 0]);
    assert.doesNotMatch(serve.stderr, /declined|stays as it is|error/i);
  } finally {
    for (const program of [guest, serve]) if (program.alive) await program.end();
  }
  for (const { ending, output } of [guest, serve]) assert.equal(ending?.code, 0, output);
});
