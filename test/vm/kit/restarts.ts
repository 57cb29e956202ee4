/**
 * Backends of a running guest that end and are started anew under traffic: first in good order for a while, then in none.
 *
 * What QEMU does meanwhile is QEMU's: without a backend it drops what the guest sends, and tells it that its cable is out. So frames may be missing,
 * but only from the time between one backend and the next.
 */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { configure } from '../../../src/vm/cable.js';
import type { QemuName } from '../../../src/vm/qemu.js';
import { Vm } from '../../../src/vm/vm.js';
import { READY } from '../../link/backend-restarts.js';
import { Waits } from '../../link/waits.js';
import { Backend, type Wish } from './backend.js';
import { Numbers, type Report, type Stretch } from './numbers.js';

/** Datagrams that must get through before the next blow: more than can come once more after one. */
const BETWEEN = 256;
/** Frames that a device takes at once: what it may have sent when it is killed, and not said. */
const BATCH = 128;
const SOON_MS = 1000;
/** The longest that QEMU 7.2 waits by itself before it connects again. */
const OLD_PAUSE_MS = 1000;
/** A frame that is lost with a backend may have come to it so long before the end. */
const ON_ITS_WAY_MS = 500;
/** Linux in the guest looks at its cable once a second: it may find it pulled when it is in again, and drop what it has to send until it looks once more. */
const NOTICE_MS = 2000;

/** Whoever listens, with either QEMU and either kind of ring. */
export const RESTART_CASES: readonly (readonly [QemuName, Wish])[] = [
  ['7.2', { listener: 'qemu' }],
  ['11.1', { listener: 'qemu', packed: true }],
  ['7.2', { listener: 'backend', packed: true }],
  ['11.1', { listener: 'backend' }],
];

/** Each phase goes on for `seconds`; a backend lives for `everyMs` at least. */
export async function backendRestarts(
  t: TestContext,
  qemu: QemuName,
  wish: Wish,
  { seconds, everyMs }: { readonly seconds: number; readonly everyMs: number },
): Promise<void> {
  const backend = await Backend.start(wish);
  let vm: Vm | null = null;
  try {
    vm = await Vm.start({ qemu, image: 'node', nics: [backend.nic] });
    await configure(vm);
    for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
      const numbers = Numbers.start(vm, backend.cable, (seconds + 120) * 1000);
      try {
        const slow = qemu === '7.2' && wish.listener === 'backend';
        const limitMs = SOON_MS + (slow ? OLD_PAUSE_MS : 0);
        await phase(t, { vm, backend, numbers, signal, seconds, everyMs, limitMs });
      } finally {
        numbers.close();
      }
    }
  } catch (error) {
    t.diagnostic(`${backend.output}\n${vm?.console}`);
    await vm?.stop();
    await backend.abandon();
    throw error;
  }
  await vm.stop();
  await backend.close();
}

interface Phase {
  readonly vm: Vm;
  readonly backend: Backend;
  readonly numbers: Numbers;
  readonly signal: 'SIGTERM' | 'SIGKILL';
  readonly seconds: number;
  readonly everyMs: number;
  readonly limitMs: number;
}

async function phase(t: TestContext, plan: Phase): Promise<void> {
  const { vm, backend, numbers, signal, seconds, everyMs, limitMs } = plan;
  const waits = new Waits();
  const outages: Stretch[] = [];
  const twice: number[] = [];
  await numbers.more(BETWEEN); // the guest's end has started
  const deadline = performance.now() + seconds * 1000;
  while (performance.now() < deadline) {
    const from = performance.now();
    const before = numbers.repeated;
    await backend.program.end(signal);
    const cable = backend.serve().then(() => backend.cable.introduce(backend.nic.mac!));
    const ready = Promise.all([cable, backend.program.says(READY)]);
    await waits.measure([vm.pid, backend.program.pid], ready, () => numbers.more(1));
    outages.push({ from: from - ON_ITS_WAY_MS, to: performance.now() + NOTICE_MS });
    await numbers.more(BETWEEN);
    twice.push(numbers.repeated - before);
    await pause(everyMs - (performance.now() - from));
  }
  const { toHost, toGuest } = await numbers.stop();
  for (const [way, { packets, corrupt, lost }] of Object.entries({ toHost, toGuest })) {
    t.diagnostic(`${signal}, ${way}: ${packets} datagrams, ${lost.length} times some were lost with QEMU`);
    assert.equal(corrupt, 0, `corrupt ${way}`);
    for (const stretch of lost) {
      const during = outages.some(({ from, to }) => stretch.from <= to && stretch.to >= from);
      assert.ok(during, `lost ${way} at ${JSON.stringify(stretch)}: ${JSON.stringify(outages)}`);
    }
  }
  assertOnce(t, signal, twice, { toHost, toGuest });
  waits.judge(t, `${signal}: from a backend that is ready to traffic`, limitMs);
}

/** In good order nothing comes twice; after a kill what a backend had in hand. To the guest nothing ever does, but what came twice to the host is sent back twice. */
function assertOnce(
  t: TestContext,
  signal: Phase['signal'],
  twice: readonly number[],
  { toHost, toGuest }: { readonly toHost: Report; readonly toGuest: Report },
): void {
  t.diagnostic(`${signal}: datagrams that came twice, each time: ${twice}`);
  const most = signal === 'SIGTERM' ? 0 : BATCH;
  assert.ok(
    twice.every(n => n <= most),
    'datagrams to the host that came twice',
  );
  assert.ok(toGuest.repeated <= toHost.repeated, 'datagrams to the guest that came twice');
  if (signal === 'SIGTERM') assert.equal(toHost.late, 0, 'datagrams to the host out of order');
}
