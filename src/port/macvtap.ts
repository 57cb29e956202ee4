/**
 * macvtap: an interface that shares another one's cable. What comes in here is what the network sends to its address; what goes out here leaves by the
 * lower interface.
 *
 *   macvtap:IFNAME        the interface exists; it is not ours to make or to delete
 *
 * Its queues are read and written as those of a TAP. A cable that others use too is not ours to pull: there is no carrier to set.
 */

import { openMacvtap } from '../linux/macvtap.js';
import type { Tap } from '../linux/tun.js';
import { PortError, type PortKind } from './port.js';
import { handleOf, type TapHandle, tap } from './tap.js';
import { TapQueues } from './tap-queues.js';

export const macvtap: PortKind = {
  kind: 'macvtap',
  usage: 'macvtap:IFNAME',
  options: ['_'],
  open(options, host, lanes): TapHandle {
    const name = options.get('_') ?? '';
    if (!/^[^\s/]{1,15}$/.test(name)) {
      throw new PortError(
        'PORT_SPEC',
        `macvtap: "${name}" is no interface name (1 to 15 characters): write macvtap:IFNAME`,
      );
    }
    const queues: Tap[] = [];
    try {
      while (queues.length < lanes) queues.push(openMacvtap(name));
      return { ...handleOf(new TapQueues(queues), undefined, host), setCarrier: () => {} };
    } catch (error) {
      for (const queue of queues) queue.close();
      throw error;
    }
  },
  attach: (descriptor, worker) => tap.attach(descriptor, worker),
};
