/**
 * switch: a learning Ethernet switch among the NICs of one process, whatever protocol each of them speaks (docs/switch.md).
 *
 *   switch:NAME[,isolated][,mac-age=300]      one more port of the switch of that name
 */
import { PortError, type PortHost, type PortKind } from '../port.js';
import { SwitchLane } from './lane.js';
import { SWITCH_LIMITS, type SwitchLimits } from './limits.js';
import { joinSwitch, type SwitchPort } from './switch.js';

export { SWITCH_LIMITS, type SwitchLimits } from './limits.js';
export type { SwitchCounters, SwitchPort } from './switch.js';

const NAME = /^[\w.-]{1,64}$/;
const MAC_AGE = { usual: 300, most: 1_000_000 };

/** As `openPort`, with limits other than the usual. Throws PortError, MemoryError, LinuxError. */
export function openSwitchPort(
  options: ReadonlyMap<string, string>,
  host: PortHost,
  lanes: number,
  limits: SwitchLimits = SWITCH_LIMITS,
): SwitchPort {
  const name = options.get('_') ?? '';
  if (!NAME.test(name)) {
    throw new PortError(
      'PORT_SPEC',
      `switch: "${name}" is no name (1 to 64 letters, digits, ".", "_", "-"): write switch:NAME`,
    );
  }
  const age = options.get('mac-age') ?? String(MAC_AGE.usual);
  const macAge = Number(age);
  if (!/^\d+$/.test(age) || macAge < 1 || macAge > MAC_AGE.most) {
    throw new PortError('PORT_SPEC', `switch: mac-age must be 1 to ${MAC_AGE.most} seconds, not "${age}"`);
  }
  return joinSwitch(name, host, { isolated: options.has('isolated'), macAge, lanes, limits });
}

export const switchPort: PortKind = {
  kind: 'switch',
  usage: `switch:NAME[,isolated][,mac-age=${MAC_AGE.usual}]`,
  options: ['_', 'mac-age'],
  flags: ['isolated'],
  open: (options, host, lanes) => openSwitchPort(options, host, lanes),
  attach: (descriptor, worker) => new SwitchLane(descriptor, worker),
};
