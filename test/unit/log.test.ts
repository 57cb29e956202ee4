/** What reaches the operator of what a peer can provoke. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { sparing } from '../../src/cli/log.js';

test('a flood of messages passes a few a second, and says how many are missing', t => {
  let now = 5000;
  t.mock.method(performance, 'now', () => now);
  const lines: string[] = [];
  const log = sparing((level, message) => lines.push(`${level} ${message}`), 3);
  for (let i = 0; i < 1000; i++) log('warn', `${i}`);
  assert.deepEqual(lines, ['warn 0', 'warn 1', 'warn 2']);
  now += 1000;
  log('warn', 'later');
  log('info', 'more');
  assert.deepEqual(lines.slice(3), [
    'warn 997 messages like the next one were left out',
    'warn later',
    'info more',
  ]);
});
