/** TAPs of kernels old and new: they are asked for what they know, and for that even where the guest has agreed to more. */
import assert from 'node:assert/strict';
import { OFFLOAD_ALL, PORT_OFFLOADS } from '../../datapath/layout.js';
import { tellOffloads } from '../../src/cli/tap-offloads.js';
import { EINVAL, LinuxError } from '../../src/linux/errors.js';
import { createNetns } from '../../src/linux/netns.js';
import { rootTest } from '../../src/linux/testing.js';
import { openTap, type Tap } from '../../src/linux/tun.js';
import { handleOf } from '../../src/port/tap.js';
import { TapQueues } from '../../src/port/tap-queues.js';
import { arena, window } from '../compliance/testbed.js';

/** A TAP that knows these bits, as kernels do: one that it does not know, and it takes none. Notes what is in force. */
class OldTap {
  readonly tap: Tap;
  inForce = 0;

  constructor(tap: Tap, known: number) {
    this.tap = tap;
    const setOffload = tap.setOffload.bind(tap);
    tap.setOffload = bits => {
      if ((bits & ~known) !== 0) throw new LinuxError('ioctl TUNSETOFFLOAD', EINVAL, tap.name);
      setOffload(bits);
      this.inForce = bits;
    };
  }
}

for (const [kernel, known, said] of [
  ['6.2', 0x7f, null],
  ['6.1', 0x1f, 'USO'],
  ['without UFO', 0x0f, 'UFO, USO'],
  ['that knows none', 0x00, 'UFO, USO'],
] as const)
  rootTest(`a kernel ${kernel}: the TAP hands out what it can`, () => {
    const live = arena.live;
    const netns = createNetns();
    const old = new OldTap(openTap({ name: 'old0', netns }), known);
    const port = handleOf(new TapQueues([old.tap]), netns, { window, arena });
    assert.deepEqual([port.offloads & OFFLOAD_ALL, old.inForce], [known & OFFLOAD_ALL, 0]);
    port.setOffloads!(OFFLOAD_ALL);
    assert.equal(old.inForce, known & OFFLOAD_ALL, 'all that it knows');
    assert.equal(window.words[(port.lanes[0]!.state + PORT_OFFLOADS) >>> 2], OFFLOAD_ALL);
    port.setOffloads!(0);
    assert.equal(old.inForce, 0);
    const log: string[] = [];
    tellOffloads(port, (level, message) => log.push(`${level} ${message}`));
    assert.deepEqual(
      log.map(line => /\((.*)\)/.exec(line)?.[1]),
      said === null ? [] : [said],
    );
    port.close();
    assert.equal(arena.live, live);
  });
