/** `polynic ls`: the NICs and guests that this user runs. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from '@commander-js/extra-typings';
import { ask, livingNames } from '../observe/control/client.js';
import type { ControlInfo } from '../observe/control/messages.js';
import { packets, sample } from './asking.js';
import { table } from './table.js';

/** Between the two looks at the counters that make a rate. */
const LOOK_MS = 250;
/** Who takes longer is shown as silent. */
const PATIENCE_MS = 1000;

interface Row {
  readonly name: string;
  /** Null: no answer. */
  readonly info: ControlInfo | null;
  readonly packetsPerSecond: number | null;
}

export function lsCommand() {
  return new Command('ls')
    .description('list the running NICs and guests of this user')
    .option('--json', 'print one array')
    .action(async ({ json = false }) => {
      const rows = await Promise.all(livingNames().map(look));
      if (json) {
        const flat = rows.map(({ name, info, packetsPerSecond }) => ({ name, ...info, packetsPerSecond }));
        console.log(JSON.stringify(flat));
      } else if (rows.length > 0) console.log(table([HEAD, ...rows.map(words)], [2, 6]));
    });
}

async function look(name: string): Promise<Row> {
  try {
    const info = (await ask(name, { op: 'info' }, { timeoutMs: PATIENCE_MS })) as ControlInfo;
    const before = await sample(name);
    await sleep(LOOK_MS);
    const after = await sample(name);
    const moved = packets(after.counters) - packets(before.counters);
    return { name, info, packetsPerSecond: Math.round(moved / (after.at - before.at)) };
  } catch {
    return { name, info: null, packetsPerSecond: null }; // silent, or on its way out
  }
}

const HEAD = ['NAME', 'ROLE', 'PID', 'DEVICE', 'PORT', 'STATE', 'PACKETS/S'];

function words({ name, info, packetsPerSecond }: Row): string[] {
  if (!info) return [name, '-', '-', '-', '-', 'silent', '-'];
  const state = info.running ? 'running' : info.connected ? 'stopped' : 'waiting';
  const shown = [info.role, info.pid, info.device ?? '-', info.port].map(String);
  return [name, ...shown, state, String(packetsPerSecond)];
}
