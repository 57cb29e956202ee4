import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { eventually } from './testing.js';

const module = JSON.stringify(new URL('./process.js', import.meta.url).href);
const node = (code: string) => [process.execPath, '--input-type=module', '-e', code] as const;

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

test('a child that asked for it dies with its parent', async () => {
  const child = `import { dieWithParent } from ${module};
    dieWithParent(process.ppid);
    process.stdout.write(String(process.pid));
    setInterval(() => {}, 1000);`;
  const parent = `import { spawn } from 'node:child_process';
    spawn(process.execPath, ['--input-type=module', '-e', ${JSON.stringify(child)}], { stdio: ['ignore', 'inherit', 'inherit'] });
    setInterval(() => {}, 1000);`;
  const [command, ...args] = node(parent);
  const running = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const pid = Number(String((await once(running.stdout, 'data'))[0]));
  assert.ok(alive(pid));
  running.kill('SIGKILL');
  await eventually(() => !alive(pid));
});

test('a program runs itself again as root of its own network', async t => {
  if (spawnSync('unshare', ['-Urn', 'true']).status !== 0) {
    return t.skip('this machine does not let us make user namespaces');
  }
  const netns = JSON.stringify(new URL('./netns.js', import.meta.url).href);
  const code = `import * as p from ${module};
    import { canCreateNamespaces } from ${netns};
    if (p.enteredUserNamespace()) {
      process.on('SIGTERM', () => process.exit(7));
      process.stdout.write(JSON.stringify([p.haveNetAdmin(), canCreateNamespaces(), process.pid]));
      setInterval(() => {}, 1000);
    } else process.exit(await p.reexecInUserNamespace(['--input-type=module', '-e', process.env.CODE]));`;
  const run = async (): Promise<[ReturnType<typeof spawn>, number]> => {
    const [command, ...args] = node(code);
    const env = { ...process.env, CODE: code };
    const outer = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'], env });
    const [admin, namespaces, pid] = JSON.parse(String((await once(outer.stdout!, 'data'))[0]));
    assert.deepEqual([admin, namespaces], [true, true]);
    return [outer, pid];
  };
  const [first] = await run();
  first.kill('SIGTERM');
  assert.deepEqual(await once(first, 'exit'), [7, null], 'signal in, exit code out');
  const [second, inner] = await run();
  second.kill('SIGKILL');
  await eventually(() => !alive(inner));
});
