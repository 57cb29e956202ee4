/** What a virtio NIC's vrings are made with. */
import type { Arena } from '../memory/arena.js';
import type { Window } from '../memory/window.js';
import type { DatapathExports } from '../ring/datapath.js';
import type { Ring } from '../ring/ring.js';

export interface VirtioHost {
  readonly window: Window;
  readonly arena: Arena;
  readonly calls: DatapathExports;
  readonly ring: Ring;
}
