/** The bench's measurements inside one process: every packet of a turn goes through, and nothing is left behind. What they measure is not looked at here. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type Bed, bpfhvBed, virtioBed } from '../../src/bench/bed.js';
import { groupsOf } from '../../src/bench/cases.js';
import { BenchError } from '../../src/bench/errors.js';
import { benchHost } from '../../src/bench/host.js';
import { measureLoad } from '../../src/bench/load.js';
import { measureKernel, measureParts } from '../../src/bench/parts.js';
import { loadAsDriver } from '../../src/bench/programs.js';
import type { BenchResult } from '../../src/bench/result.js';
import { measureRingCalls } from '../../src/bench/ring-calls.js';
import { measureSealing } from '../../src/bench/seal.js';
import { noTestpmd } from '../../src/bench/testpmd.js';
import { flowMover, takeTurn } from '../../src/bench/turns.js';
import { measureVhostUser } from '../../src/bench/vhost-user.js';
import { measureVmTcp } from '../../src/bench/vm-tcp.js';
import { openFds } from '../../src/linux/fd.js';
import { openMappings } from '../../src/linux/mmap.js';
import { canCreateNamespaces } from '../../src/linux/netns.js';
import { deviceType, deviceTypeNames } from '../../src/ring/registry.js';

const LITTLE = { warmUp: 3, turns: 1 };
const DIRECTIONS = ['tx', 'rx'] as const;

/** What the bench holds, apart from its host. */
function held() {
  return { pieces: benchHost().arena.live, fds: openFds().length, mappings: openMappings().length };
}

async function leavesNothing(measure: () => Promise<BenchResult[]>): Promise<BenchResult[]> {
  const before = held();
  const results = await measure();
  assert.deepEqual(held(), before);
  return results;
}

function namesOf(results: readonly BenchResult[]): string[] {
  for (const { case: name, value } of results) assert.ok(Number.isFinite(value), name);
  return results.map(one => one.case);
}

for (const name of deviceTypeNames) {
  test(`${name}: parts of a packet, both directions`, async () => {
    for (const direction of DIRECTIONS) {
      const path = `parts/${name}/${direction}/60`;
      const results = await leavesNothing(() => measureParts(deviceType(name)!, direction, 60, LITTLE));
      const parts = ['driver', 'programs', 'programs-guarded', 'backend'];
      assert.deepEqual(
        namesOf(results),
        parts.map(part => `${path}/${part}`),
      );
      assert.equal(results[1]!.against, `${path}/programs-guarded`);
    }
  });
}

test('frames of several buffers are for formats with offloads', async () => {
  for (const direction of DIRECTIONS) {
    const large = (name: string) => () => measureParts(deviceType(name)!, direction, 65536, LITTLE);
    const path = `parts/sring_gso/${direction}/65536`;
    assert.deepEqual(
      namesOf(await leavesNothing(large('sring_gso'))),
      ['driver', 'programs', 'programs-guarded', 'backend'].map(part => `${path}/${part}`),
    );
    assert.deepEqual(
      groupsOf(path).flatMap(({ names }) => names),
      [path, `${path}/kernel`],
    );
    const before = held();
    await assert.rejects(large('sring'), RangeError);
    assert.deepEqual(held(), before);
  }
});

test('the kernel’s part goes through a TAP', async t => {
  if (!canCreateNamespaces()) return t.skip('no right to make network namespaces');
  const few = { warmUp: 1, turns: 1 };
  for (const [direction, length] of [
    ['tx', 60],
    ['rx', 1514],
    ['tx', 65536],
    ['rx', 65536],
  ] as const) {
    const device = deviceType('sring_gso')!;
    const results = await leavesNothing(() => measureKernel(device, direction, length, few));
    assert.deepEqual(namesOf(results), [`parts/sring_gso/${direction}/${length}/kernel`]);
    assert.ok(results[0]!.value > 0);
  }
});

test('rings beside sring, virtqueues among them', async () => {
  for (const direction of DIRECTIONS) {
    const formats = ['split', 'packed', 'vring_packed'];
    const results = await leavesNothing(() => measureRingCalls(formats, direction, LITTLE));
    assert.deepEqual(
      namesOf(results),
      ['sring', ...formats].map(format => `ring/${format}/${direction}`),
    );
    assert.ok(results.slice(1).every(({ against }) => against === `ring/sring/${direction}`));
  }
});

test('a turn that loses packets is no measurement', async () => {
  const spent = { guest: 0, ring: 0, port: 0 };
  const lazy = (bed: Bed) => ({ ...flowMover(bed), move: () => 1 });
  using virtio = virtioBed(false, 'rx', 60);
  using reluctant = lazy(virtio);
  assert.throws(() => takeTurn(virtio, reluctant, spent), BenchError);
  using bed = bpfhvBed(deviceType('sring')!, 'tx', 60);
  bed.install((await loadAsDriver(deviceType('sring')!, bed.place)).programs[0]!);
  using mover = flowMover(bed);
  for (let i = 0; i < 5; i++) assert.equal(takeTurn(bed, mover, spent), bed.frames);
  bed.calls.driver_fail(bed.driver, 3);
  assert.throws(() => takeTurn(bed, mover, spent), BenchError);
});

test('the proof leaves fewer guards; programs load in a fresh process', async () => {
  const results = await leavesNothing(() => measureLoad(deviceType('sring')!));
  const [verify, jit, guards, unproved] = results;
  assert.deepEqual(
    namesOf(results),
    ['verify', 'jit', 'guards', 'guards-unproved'].map(what => `load/sring/${what}`),
  );
  assert.ok(verify!.value > 0 && jit!.value > 0);
  assert.ok(guards!.value < unproved!.value);
});

test('what is sealed is opened', () => {
  assert.deepEqual(namesOf(measureSealing(60)), ['seal/60/seal', 'seal/60/open']);
});

test('our vhost-user backend beside DPDK’s', async t => {
  const missing = noTestpmd();
  if (missing) return t.skip(missing);
  const few = { rounds: 1, warmUpMs: 50, samples: 1, sampleMs: 100 };
  const before = openFds().length;
  const results = await measureVhostUser('packed', 1514, 'rx', few);
  const name = 'vhost-user/packed/1514/rx';
  assert.deepEqual(namesOf(results), [name, `${name}/dpdk`]);
  assert.equal(results[0]!.against, `${name}/dpdk`);
  assert.equal(openFds().length, before);
});

test('a virtual machine that can not be had is left out, with the reason', async () => {
  const cache = process.env.POLYNIC_CACHE;
  process.env.POLYNIC_CACHE = '/nonexistent';
  try {
    await assert.rejects(measureVmTcp('split', ['to-host']), {
      code: 'BENCH_MISSING',
      message: /setup:system/,
    });
  } finally {
    if (cache === undefined) delete process.env.POLYNIC_CACHE;
    else process.env.POLYNIC_CACHE = cache;
  }
});

test('cases are found by what their paths begin with, and by paths below them', () => {
  const names = (wanted: string) => groupsOf(wanted).flatMap(group => group.names);
  assert.deepEqual(names('no such case'), []);
  assert.deepEqual(names('upgrade/blackout/p50'), ['upgrade']);
  assert.deepEqual(names('parts/sring/tx/60/kernel'), ['parts/sring/tx/60', 'parts/sring/tx/60/kernel']);
  assert.deepEqual(names('parts/sring/tx/60/driver'), ['parts/sring/tx/60']);
  assert.deepEqual(names('tap-tcp/vring'), ['tap-tcp/vring_packed']);
  assert.deepEqual(names('vhost-user/split/64/tx/dpdk'), ['vhost-user/split/64/tx']);
  assert.deepEqual(names('vm-tcp/packed/to-host/cpu'), ['vm-tcp/packed/to-host']);
  assert.equal(new Set(names('')).size, names('').length);
});
