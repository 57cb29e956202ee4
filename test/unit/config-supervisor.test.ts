/** How the NICs of a file are kept: what processes are asked, what becomes of NICs that fail, and who hears of it. The processes are played. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { ConfigDocument } from '../../src/cli/config/document.js';
import type { MemberEvents } from '../../src/cli/config/member-process.js';
import type { MemberRequest } from '../../src/cli/config/messages.js';
import { type FileNic, readNics } from '../../src/cli/config/nics.js';
import { Supervisor } from '../../src/cli/config/supervisor.js';
import { eventually } from '../../src/linux/testing.js';

const PAUSES = { firstMs: 1, maxMs: 4, livedMs: 10_000 };

function nics(...texts: string[]): FileNic[] {
  const list = texts.map(text => {
    const [name] = text.split(',');
    return `\n- {name: ${name}, vhost-user: /${name}, ${text.slice(name!.length + 1)}}`;
  });
  return readNics(new ConfigDocument('f', `nics:${list.join('') || ' []'}`));
}

/** Processes that do as they are told, and say nothing else. */
class Stage {
  /** `process: request`, in the order in which they came. */
  readonly asked: string[] = [];
  readonly logged: string[] = [];
  readonly running = new Map<string, MemberEvents>();
  /** What an answer waits for, or how it fails. */
  answer: (request: MemberRequest) => Promise<void> = async () => {};
  left = { fds: 0, mappings: 0, buffers: 0 };
  readonly supervisor: Supervisor;

  constructor() {
    this.supervisor = new Supervisor({
      log: (level, message) => {
        if (level !== 'info') this.logged.push(message);
      },
      pauses: PAUSES,
      start: (what, events) => {
        assert.ok(!this.running.has(what), `${what} runs twice`);
        this.running.set(what, events);
        this.asked.push(`${what}: start`);
        return {
          request: request => {
            const about =
              request.op === 'open' ? /--name=(\S+)/.exec(request.words.join(' '))![1] : request.name;
            const wish = request.op === 'change' ? ` ${JSON.stringify(request.wish)}` : '';
            this.asked.push(`${what}: ${request.op} ${about}${wish}`);
            return this.answer(request);
          },
          end: async () => {
            this.asked.push(`${what}: end`);
            this.running.delete(what);
            return this.left;
          },
        };
      },
    });
  }

  /** What has been asked since the last call. */
  heard(): string[] {
    return this.asked.splice(0);
  }

  /** Its process ends by itself. */
  kill(what: string): void {
    const events = this.running.get(what)!;
    this.running.delete(what);
    events.onEnd('SIGKILL');
  }
}

test('each NIC has a process, members of a switch share one; processes end with their last NIC', async () => {
  const stage = new Stage();
  await stage.supervisor.apply(nics('a, port: sink', 'b, port: switch:l', 'c, port: switch:l'));
  assert.deepEqual(stage.heard().toSorted(), [
    ...['NIC a: open a', 'NIC a: start'],
    ...['switch l: open b', 'switch l: open c', 'switch l: start'],
  ]);
  await stage.supervisor.apply(nics('a, port: source', 'b, port: switch:l'));
  assert.deepEqual(stage.heard(), ['switch l: close c', 'NIC a: change a {"port":"source"}']);
  await stage.supervisor.apply(nics('b, port: sink'));
  assert.deepEqual(stage.heard().toSorted(), [
    ...['NIC a: close a', 'NIC a: end', 'NIC b: open b', 'NIC b: start'],
    ...['switch l: close b', 'switch l: end'],
  ]);
  await stage.supervisor.stop();
  assert.deepEqual(stage.heard(), ['NIC b: end']);
  assert.deepEqual(stage.logged, []);
});

test('one that can not be opened is tried again, said once, and others are not held up', async () => {
  const stage = new Stage();
  let failures = 5;
  stage.answer = async request => {
    if (request.op === 'open' && request.words.includes('--name=a') && failures-- > 0)
      throw new Error('in use');
  };
  await stage.supervisor.apply(nics('a, port: sink', 'b, port: sink'));
  await eventually(() => failures === -1);
  assert.equal(stage.heard().filter(line => line === 'NIC a: open a').length, 6);
  assert.deepEqual(stage.logged, ["a can't be opened: in use; it is tried again"]);
  await stage.supervisor.stop();
});

test('one that fails is opened again in its process; one whose process ends, in another', async () => {
  const stage = new Stage();
  await stage.supervisor.apply(nics('a, port: switch:l', 'b, port: switch:l'));
  stage.heard();
  stage.running.get('switch l')!.onFailed('a', 'interface t was deleted');
  await eventually(() => stage.asked.length > 0);
  assert.deepEqual(stage.heard(), ['switch l: open a']);
  stage.kill('switch l');
  await eventually(() => stage.asked.length === 3);
  assert.deepEqual(stage.heard().toSorted(), ['switch l: open a', 'switch l: open b', 'switch l: start']);
  assert.deepEqual(stage.logged, [
    'a has failed: interface t was deleted; it is tried again',
    'a has lost its process: SIGKILL; it is tried again',
    'b has lost its process: SIGKILL; it is tried again',
  ]);
  await stage.supervisor.stop();
});

test('a change that is declined is told, and asked for again by the next file', async () => {
  const stage = new Stage();
  await stage.supervisor.apply(nics('a, port: sink'));
  stage.answer = async () => {
    throw new Error('the guest declined');
  };
  await stage.supervisor.apply(nics('a, port: source'));
  assert.deepEqual(stage.logged, ['a stays as it is: the guest declined']);
  stage.answer = async () => {};
  stage.heard();
  await stage.supervisor.apply(nics('a, port: source'));
  assert.deepEqual(stage.heard(), ['NIC a: change a {"port":"source"}']);
  await stage.supervisor.apply(nics('a, port: source'));
  assert.deepEqual(stage.heard(), []);
  await stage.supervisor.stop();
});

test('one that fails while it changes is opened as it was to be', async () => {
  const stage = new Stage();
  await stage.supervisor.apply(nics('a, port: sink'));
  stage.heard();
  stage.answer = async request => {
    if (request.op !== 'change')
      return assert.ok(request.op === 'open' && request.words.includes('--port=source'));
    stage.kill('NIC a');
    throw new Error('its process has ended');
  };
  await stage.supervisor.apply(nics('a, port: source'));
  await eventually(() => stage.asked.length === 3);
  assert.deepEqual(stage.heard(), ['NIC a: change a {"port":"source"}', 'NIC a: start', 'NIC a: open a']);
  assert.deepEqual(stage.logged, ['a has lost its process: SIGKILL; it is tried again']);
  await stage.supervisor.stop();
});

test('one that is taken out while it waits is not opened any more', async t => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const stage = new Stage();
  stage.answer = async () => {
    throw new Error('in use');
  };
  await stage.supervisor.apply(nics('a, port: sink'));
  assert.deepEqual(stage.heard(), ['NIC a: start', 'NIC a: open a']);
  t.mock.timers.tick(PAUSES.firstMs);
  await nextTurn();
  assert.deepEqual(stage.heard(), ['NIC a: open a']);
  await stage.supervisor.apply([]);
  assert.deepEqual(stage.heard(), ['NIC a: end']);
  t.mock.timers.tick(10 * PAUSES.maxMs);
  await nextTurn();
  assert.deepEqual(stage.heard(), []);
  await stage.supervisor.stop();
});

test('the end waits for nothing, begins nothing, and says what was not given back', async () => {
  const stage = new Stage();
  await stage.supervisor.apply(nics('a, port: sink', 'b, port: sink'));
  stage.heard();
  let decline = (_: Error): void => {};
  stage.answer = () => new Promise((_, reject) => (decline = reject));
  const applied = stage.supervisor.apply(nics('a, port: source', 'c, port: sink'));
  await eventually(() => stage.asked.length > 0);
  stage.left = { fds: 1, mappings: 0, buffers: 2 };
  const stopped = stage.supervisor.stop();
  decline(new Error('its process has ended'));
  await Promise.all([applied, stopped]);
  assert.deepEqual(stage.heard().toSorted(), ['NIC a: end', 'NIC b: close b', 'NIC b: end']);
  assert.deepEqual(stage.logged.toSorted(), [
    'b: its process has ended',
    'the process of NIC a has not given back 1 fds',
    'the process of NIC a has not given back 2 buffers',
    'the process of NIC b has not given back 1 fds',
    'the process of NIC b has not given back 2 buffers',
  ]);
});
