/** Waits for what another process makes: the socket at which it listens. */
import { existsSync, watch } from 'node:fs';
import { dirname } from 'node:path';

/** Resolves when there is something at that path, or `signal` aborts. */
export function appears(path: string, signal: AbortSignal): Promise<void> {
  return new Promise(resolve => {
    const watcher = watch(dirname(path));
    const done = (): void => {
      watcher.close();
      signal.removeEventListener('abort', done);
      resolve();
    };
    const look = (): void => {
      if (signal.aborted || existsSync(path)) done();
    };
    watcher.on('change', look);
    signal.addEventListener('abort', done);
    look();
  });
}
