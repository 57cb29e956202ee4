/**
 * A network that several backends' ports are on, so that a guest which moves from one to the other keeps its connections:
 *
 * ```
 *   backend A ── lan0 ──┐
 *   backend B ── lan1 ──┼── br0 10.9.0.1      a bridge in a namespace of its own; servers in this process
 *   backend C ── lan2 ──┘
 * ```
 */
import { execFileSync } from 'node:child_process';
import type { OwnedFd } from '../../../src/linux/fd.js';
import { changeLink } from '../../../src/linux/link.js';
import { addAddress } from '../../../src/linux/route.js';
import { Cable, HOST_IP, makeHost } from '../../../src/vm/cable.js';

const BRIDGE = 'br0';
const BRIDGE_MAC = '02:00:00:00:00:01';

export class Lan {
  readonly netns = makeHost('a network of several backends');
  #ports = 0;

  constructor() {
    inNetns(this.netns, 'link', 'add', BRIDGE, 'address', BRIDGE_MAC, 'type', 'bridge');
    addAddress(BRIDGE, `${HOST_IP}/24`, this.netns);
    changeLink(BRIDGE, { up: true }, this.netns);
  }

  /** One more port, for a backend, which closes it. */
  port(): Cable {
    return new LanPort(this.netns.dup(), this.#ports++);
  }

  [Symbol.dispose](): void {
    this.netns.close();
  }
}

class LanPort extends Cable {
  constructor(netns: OwnedFd, n: number) {
    super(netns, `lan${n}`, `02:00:00:00:01:0${n}`);
  }

  /** The address is the bridge's. */
  override connect(): void {
    inNetns(this.netns, 'link', 'set', this.interface, 'master', BRIDGE, 'up');
  }
}

function inNetns({ fd }: OwnedFd, ...words: string[]): void {
  execFileSync('nsenter', [`--net=/proc/${process.pid}/fd/${fd}`, 'ip', ...words]);
}
