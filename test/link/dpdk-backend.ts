/**
 * Our vhost-user backend with DPDK's virtio-user as front end and driver, on every ring path that it has.
 *
 * ```
 *   source ──► worker ──► ring ──► testpmd, io ──► ring ──► worker ──► counts and looks at the numbers
 * ```
 * testpmd sends back what it gets. Numbers that are missing are those that it dropped itself, since it never waits.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import * as L from '../../datapath/layout.js';
import { noTestpmd, Testpmd, type TestpmdOptions } from '../../src/bench/testpmd.js';
import { ConnectionSlot, socketChannel } from '../../src/control/bpfhv-proxy/index.js';
import { serveVhostUser } from '../../src/control/vhost-user/index.js';
import { countProcessFds, openFds } from '../../src/linux/fd.js';
import { openMappings } from '../../src/linux/mmap.js';
import { eventually } from '../../src/linux/testing.js';
import { UnixListener } from '../../src/linux/unix-listener.js';
import { VirtioNic } from '../../src/nic/virtio-nic.js';
import { readFlow } from '../../src/port/flow.js';
import type { PortHandle } from '../../src/port/port.js';
import { openPort } from '../../src/port/registry.js';
import { VIRTIO_FEATURE as F } from '../../src/ring/virtio/features.js';
import { arena, window } from '../compliance/testbed.js';

const FRAMES = 50_000;
const QUEUE_SIZE = 256;

/** What DPDK's log calls the functions of a path. */
interface RingPath {
  readonly name: string;
  /** Words for the device. */
  readonly device: string;
  readonly tx: string;
  readonly rx: string;
}

const PATHS: readonly RingPath[] = (
  [
    ['split, mergeable', 'mrg_rxbuf=1,in_order=0', 'standard', 'mergeable buffer'],
    ['split', 'mrg_rxbuf=0,in_order=0', 'standard', 'standard'],
    ['split, in order, mergeable', 'mrg_rxbuf=1,in_order=1', 'inorder', 'inorder'],
    ['split, in order', 'mrg_rxbuf=0,in_order=1', 'inorder', 'inorder'],
    ['split, vectorised', 'mrg_rxbuf=0,in_order=0,vectorized=1', 'standard', 'vectorized'],
    ['packed, mergeable', 'packed_vq=1,mrg_rxbuf=1,in_order=0', 'standard', 'mergeable buffer'],
    ['packed', 'packed_vq=1,mrg_rxbuf=0,in_order=0', 'standard', 'standard'],
    ['packed, in order, mergeable', 'packed_vq=1,mrg_rxbuf=1,in_order=1', 'standard', 'mergeable buffer'],
    ['packed, in order', 'packed_vq=1,mrg_rxbuf=0,in_order=1', 'standard', 'standard'],
    ['packed, vectorised', 'packed_vq=1,mrg_rxbuf=0,in_order=1,vectorized=1', 'vectorized', 'vectorized'],
  ] as const
).map(([name, device, tx, rx]) => ({ name, device, tx, rx }));

/** So that testpmd says which path it takes; vectorised ones for packed rings are for those who allow registers of 512 bits. */
const WORDS = ['--log-level=pmd.net.virtio.init:debug', '--force-max-simd-bitwidth=512'];

const missing = noTestpmd();
export const folder = mkdtempSync(join(tmpdir(), 'polynic-dpdk-'));
before(() => missing !== null && console.log(`skipped: ${missing}`));
after(() => rmSync(folder, { recursive: true }));

export interface Backend {
  /** Starts testpmd, which ends with the test at the latest. */
  testpmd(options: Omit<TestpmdOptions, 'socket' | 'mode'> & { socket?: string }): Testpmd;
  readonly nic: VirtioNic;
  readonly port: PortHandle;
  /** What came back to the source behind its n-th lane. */
  returned(lane: number): { sequence: number; outOfOrder: number };
  packets(ring: number): number;
}

/** A test on a NIC that listens; at its end nothing may be left. */
export function dpdkTest(
  name: string,
  options: { pairs?: number; workers?: number; seconds?: number; skip?: string | null },
  body: (backend: Backend) => Promise<void>,
): void {
  const { pairs = 1, workers = 1, seconds = 0, skip = missing } = options;
  test(name, { skip: skip ?? false, timeout: 60_000 + seconds * 1000 }, async () => {
    const held = () => ({ live: arena.live, fds: openFds(), mappings: openMappings() });
    const [before, all] = [held(), countProcessFds()];
    const port = openPort('source', { window, arena }, pairs);
    const nic = await VirtioNic.start({
      window,
      arena,
      port,
      workers,
      limits: { queuePairs: pairs, bufs: 8192 },
    });
    const socket = join(folder, `${name.replaceAll(/\W+/g, '-')}.sock`);
    const slot = new ConnectionSlot(channel => serveVhostUser(channel, nic));
    const listener = UnixListener.listen(socket);
    listener.onConnection(
      connection => slot.offer(socketChannel(connection)),
      error => assert.fail(error as Error),
    );
    const programs: Testpmd[] = [];
    try {
      await body({
        ...{ nic, port },
        testpmd: options => {
          programs.push(new Testpmd({ socket, mode: 'io', ...options }));
          return programs.at(-1)!;
        },
        returned: lane => readFlow(window, port.lanes[lane]!.state + L.PORT_SIZE),
        packets: ring => nic.stats().queues.find(({ index }) => index === ring)?.packets ?? 0,
      });
    } catch (error) {
      const { message } = error as Error;
      throw new Error(`${message}\n${nic.dump()}\n${programs.at(-1)?.output}`, { cause: error });
    } finally {
      for (const program of programs) await program.kill();
      listener.close();
      await slot.close();
      await nic.close();
      port.close();
    }
    assert.deepEqual(held(), before, 'left behind');
    assert.ok(countProcessFds() <= all, 'descriptors left behind the table');
  });
}

/** Lets frames go round, for so many seconds at least, then compares what both sides have counted. */
export async function goRound(backend: Backend, testpmd: Testpmd, pairs = 1, seconds = 0): Promise<void> {
  const rings = Array.from({ length: pairs }, (_, pair) => [2 * pair, 2 * pair + 1] as const);
  const end = performance.now() + seconds * 1000;
  let more = FRAMES / pairs;
  do {
    const targets = rings.map(([, tx]) => backend.packets(tx) + more);
    await eventually(() => rings.every(([, tx], i) => backend.packets(tx) > targets[i]!), 30_000);
    more = 1000;
    await pause(Math.min(500, end - performance.now()));
  } while (performance.now() < end);
  const counts = await testpmd.stop();
  await testpmd.quit();
  const sum = (side: 0 | 1) => rings.reduce((total, ring) => total + backend.packets(ring[side]), 0);
  const rest = pairs * QUEUE_SIZE; // what the rings held when it stopped; those to receive from are filled up once more after that
  assert.ok(counts.received <= sum(0) && counts.received >= sum(0) - 2 * rest, 'received');
  assert.ok(sum(1) <= counts.sent && sum(1) >= counts.sent - rest, 'sent');
  for (let lane = 0; lane < pairs; lane++) {
    assert.ok(backend.returned(lane).outOfOrder <= counts.dropped, 'order');
  }
  const { queues } = backend.nic.stats();
  assert.ok(
    queues.every(({ errors, dropped }) => errors === 0 && dropped === 0),
    backend.nic.dump(),
  );
}

/** A test for every path, and for two queue pairs, of so many seconds each. */
export function everyPath(seconds: number): void {
  for (const { name, device, tx, rx } of PATHS) {
    const packed = device.includes('packed_vq=1');
    const skip = missing ?? (packed && tx === 'vectorized' ? noWideRegisters() : null);
    dpdkTest(`${name}: frames go round`, { seconds, skip }, async backend => {
      const testpmd = backend.testpmd({ device, words: WORDS });
      await eventually(() => backend.nic.running, 15_000);
      for (const way of [`${tx} Tx`, `${rx} Rx`]) {
        await testpmd.says(new RegExp(`using ${packed ? 'packed ring ' : ''}${way} path`));
      }
      assert.equal((backend.nic.agreed & F.RING_PACKED) !== 0n, packed);
      assert.equal((backend.nic.agreed & F.MRG_RXBUF) !== 0n, device.includes('mrg_rxbuf=1'));
      assert.equal((backend.nic.agreed & F.IN_ORDER) !== 0n, device.includes('in_order=1'));
      await goRound(backend, testpmd, 1, seconds);
    });
  }

  dpdkTest('two queue pairs, two workers', { pairs: 2, workers: 2, seconds }, async backend => {
    await goRound(backend, backend.testpmd({ queues: 2 }), 2, seconds);
  });
}

function noWideRegisters(): string | null {
  const wide = /^flags.*\bavx512f\b/m.test(readFileSync('/proc/cpuinfo', 'utf8'));
  return wide ? null : 'the processor has no AVX-512';
}
