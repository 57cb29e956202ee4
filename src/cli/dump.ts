/** `polynic dump NAME`: the state of every queue of a running NIC or guest, down to the ring. */
import { Command } from '@commander-js/extra-typings';
import { ask } from '../observe/control/client.js';
import { printable } from '../observe/control/messages.js';
import { NAME_ARGUMENT } from './asking.js';

export function dumpCommand() {
  return new Command('dump')
    .description('print the state of every queue of a running NIC or guest')
    .argument(...NAME_ARGUMENT)
    .action(async name => {
      console.log(printable(String(await ask(name, { op: 'dump' }))));
    });
}
