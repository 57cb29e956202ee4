/** What a command undoes at its end. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { cleaningUp } from '../../src/cli/host.js';

test('every step is done at the end, the last one first, whatever fails; the first failure is told', async () => {
  for (const failing of [[], ['action'], ['b'], ['action', 'b', 'a']]) {
    const done: string[] = [];
    const step = (name: string) => async () => {
      done.push(name);
      if (failing.includes(name)) throw new Error(name);
    };
    const whole = cleaningUp(async later => {
      for (const name of ['a', 'b', 'c']) later(step(name));
      await step('action')();
    });
    if (failing.length === 0) await whole;
    else await assert.rejects(whole, { message: failing[0]! });
    assert.deepEqual(done, ['action', 'c', 'b', 'a']);
  }
});
