/** Lanes of ports: how many each kind gives, that they count for themselves, and what the kernel makes of a TAP's. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import * as L from '../../datapath/layout.js';
import type { OwnedFd } from '../../src/linux/fd.js';
import { ioctlValue, read } from '../../src/linux/libc.js';
import { changeLink, linkInfo } from '../../src/linux/link.js';
import { createNetns } from '../../src/linux/netns.js';
import { addAddress, setNeighbour } from '../../src/linux/route.js';
import { openUdp } from '../../src/linux/socket.js';
import { silenceIpv6 } from '../../src/linux/sysctl.js';
import { rootTest } from '../../src/linux/testing.js';
import { openTap } from '../../src/linux/tun.js';
import { portFlow } from '../../src/port/flow.js';
import type { PortHandle } from '../../src/port/port.js';
import { openPort } from '../../src/port/registry.js';
import type { TapHandle } from '../../src/port/tap.js';
import { arena, window } from '../compliance/testbed.js';

const TUNSETPERSIST = 0x400454cb;
const NEEDS_CSUM = 1; // in a virtio-net header's flags
/** So many that each of four lanes gets some, but for one time in 10^7. */
const FLOWS = 64;
const host = { window, arena };

test('source and sink have as many lanes as are asked for, each with counters of its own', () => {
  for (const spec of ['source:len=100', 'sink']) {
    const before = arena.live;
    const port = openPort(spec, host, 4);
    assert.equal(port.lanes.length, 4);
    const most = openPort(spec, host, 1000);
    assert.equal(most.lanes.length, 32);
    most.close();
    const states = port.lanes.map(({ state }) => state);
    for (const [i, state] of states.entries()) {
      assert.equal(state % 64, 0, 'on a cache line of its own');
      window.doubles[(state + L.PORT_SENT) / 8] = i + 1;
      window.longs[(state + L.FLOW_SEQUENCE) / 8] = BigInt(10 * i);
      window.longs[(state + L.FLOW_OUT_OF_ORDER) / 8] = BigInt(i);
    }
    assert.equal(port.counters().sent, 10);
    assert.deepEqual(portFlow(window, port), { sequence: 60, outOfOrder: 6 });
    port.close();
    assert.equal(arena.live, before);
  }
});

test('one lane when nothing else is said, and of files whatever is said', t => {
  const before = arena.live;
  const folder = mkdtempSync(join(tmpdir(), 'polynic-lanes-'));
  t.after(() => rmSync(folder, { recursive: true }));
  for (const port of [
    openPort('source', host),
    openPort('sink', host),
    openPort(`pcap:out=${join(folder, 'f')}`, host, 4),
  ]) {
    assert.equal(port.lanes.length, 1);
    port.close();
  }
  assert.equal(arena.live, before);
});

/** Opens a TAP in a namespace of its own and sends one datagram for each of many flows on it; `frames` is what came on each lane since it was asked last. */
function tapTest(
  name: string,
  lanes: number,
  existing: { multiQueue: boolean } | null,
  body: (tap: TapHandle, frames: () => Uint8Array[][], netns: OwnedFd) => void,
): void {
  rootTest(name, t => {
    const netns = createNetns();
    const before = arena.live;
    t.after(() => assert.equal(arena.live, before));
    silenceIpv6(netns);
    if (existing) {
      const tap = openTap({ name: 't0', netns, ...existing });
      assert.ok(ioctlValue(tap.fd, TUNSETPERSIST, 1) >= 0);
      tap.close();
    }
    const tap = openPort(`tap:t0,netns=/proc/self/fd/${netns.fd}`, host, lanes) as TapHandle;
    try {
      addAddress('t0', '10.0.0.1/24', netns);
      setNeighbour('t0', '10.0.0.2', '02:00:00:00:00:02', netns);
      changeLink('t0', { up: true }, netns);
      body(tap, () => sendAndCollect(tap, netns), netns);
    } finally {
      tap.close();
      netns.close();
    }
  });
}

function sendAndCollect(tap: PortHandle, netns: OwnedFd): Uint8Array[][] {
  for (let flow = 0; flow < FLOWS; flow++) {
    const socket = openUdp('10.0.0.2', { netns });
    socket.bind({ ip: '10.0.0.1', port: 5000 + flow }).connect({ ip: '10.0.0.2', port: 7 });
    assert.equal(socket.send(Buffer.from('x'), 1), 1);
    socket.close();
  }
  return tap.lanes.map(({ fds }) => {
    const frames: Uint8Array[] = [];
    const frame = new Uint8Array(2048);
    for (let n = read(fds[0]!, frame, frame.length); n > 0; n = read(fds[0]!, frame, frame.length)) {
      frames.push(frame.slice(0, n));
    }
    return frames;
  });
}

const counts = (frames: readonly (readonly Uint8Array[])[]) => frames.map(({ length }) => length);
const total = (numbers: readonly number[]) => numbers.reduce((sum, n) => sum + n, 0);

tapTest(
  'the kernel spreads flows over those lanes of a TAP that are in use, and loses none',
  4,
  null,
  (tap, frames) => {
    assert.equal(tap.lanes.length, 4);
    for (const lanes of [4, 2, 1, 3, 4]) {
      tap.useLanes!(lanes);
      const used = counts(frames());
      assert.deepEqual(
        used.map(n => n > 0),
        [0, 1, 2, 3].map(lane => lane < lanes),
        `${lanes} lanes: ${used}`,
      );
      assert.equal(total(used), FLOWS);
    }
    tap.useLanes!(0);
    assert.equal(counts(frames())[0], FLOWS, 'one stays in use');
    tap.useLanes!(9);
    assert.equal(total(counts(frames())), FLOWS, 'and there are no more than four');
  },
);

tapTest('a flow keeps its lane while the number of lanes stays', 4, null, (_tap, frames) => {
  const ports = () => frames().map(lane => lane.map(frame => (frame[46]! << 8) | frame[47]!));
  assert.deepEqual(ports(), ports());
});

tapTest('offloads and carrier are those of all lanes', 4, null, (tap, frames, netns) => {
  tap.useLanes!(3);
  for (const offloads of [L.OFFLOAD_CSUM, 0]) {
    tap.setOffloads!(offloads);
    tap.useLanes!(offloads === 0 ? 2 : 4); // before and after a lane comes into use
    const wanted = offloads === 0 ? 0 : NEEDS_CSUM;
    for (const [lane, got] of frames().entries()) {
      assert.equal(window.words[(tap.lanes[lane]!.state + L.PORT_OFFLOADS) >>> 2], offloads);
      for (const frame of got) assert.equal(frame[0], wanted, `lane ${lane}`);
    }
  }
  for (const up of [false, true]) {
    tap.setCarrier(up);
    assert.equal(linkInfo('t0', netns).carrier, up);
  }
});

tapTest('one lane asked for: an interface of a single queue', 1, null, (tap, frames, netns) => {
  assert.deepEqual(counts(frames()), [FLOWS]);
  assert.throws(() => openTap({ name: 't0', netns, multiQueue: true }), { code: 'EINVAL' });
  assert.equal(tap.lanes.length, 1);
});

tapTest(
  'an interface that was made with one queue gives one lane',
  4,
  { multiQueue: false },
  (tap, frames) => {
    assert.deepEqual(counts(frames()), [FLOWS]);
    tap.useLanes!(4);
    assert.deepEqual(counts(frames()), [FLOWS]);
    assert.equal(tap.lanes.length, 1);
  },
);

for (const lanes of [1, 3]) {
  const what = `an interface that was made with several queues gives ${lanes} lane(s) to whom that is enough`;
  tapTest(what, lanes, { multiQueue: true }, (tap, frames) => {
    assert.equal(tap.lanes.length, lanes);
    const used = counts(frames());
    assert.ok(used.every(n => n > 0));
    assert.equal(total(used), FLOWS);
  });
}

rootTest(
  'a TAP that another process has, or that is none, is refused with all its descriptors closed',
  () => {
    const netns = createNetns();
    const before = arena.live;
    const spec = (name: string) => `tap:${name},netns=/proc/self/fd/${netns.fd}`;
    for (const multiQueue of [false, true]) {
      const other = openTap({ name: 't0', netns, multiQueue });
      for (const lanes of [1, 4]) assert.throws(() => openPort(spec('t0'), host, lanes), { code: 'EBUSY' });
      other.close();
    }
    assert.throws(() => openPort(spec('lo'), host, 4), { code: 'EINVAL' });
    netns.close();
    assert.equal(arena.live, before);
  },
);
