/**
 * Where control sockets are: in one folder a user, each under the name of its process.
 *
 *   $XDG_RUNTIME_DIR/polynic/NAME.sock        or, without that,
 *   /run/polynic/NAME.sock                    for root
 *   /tmp/polynic-UID/NAME.sock                for others
 *
 * The folder is only used when nobody else can have put anything into it.
 */
import { lstatSync, mkdirSync, readdirSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import { ControlError } from './messages.js';

const ENDING = '.sock';
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const OTHERS_MAY_WRITE = 0o022;

/** How a name is made, for messages. */
export const nameUsage = 'letters, digits, ".", "_" and "-", at most 64, the first a letter or digit';

export function isControlName(text: string): boolean {
  return NAME.test(text);
}

/** The folder of this user's control sockets, which may not exist. */
export function controlFolder(): string {
  const runtime = process.env.XDG_RUNTIME_DIR;
  if (runtime && isAbsolute(runtime)) return join(runtime, 'polynic');
  const uid = process.geteuid!();
  return uid === 0 ? '/run/polynic' : `/tmp/polynic-${uid}`;
}

/** The path of the socket of that name. */
export function controlPath(name: string): string {
  return join(controlFolder(), `${name}${ENDING}`);
}

/** Makes the folder when it is not there, mode 0700. Throws ControlError CONTROL_FOLDER when it is not ours alone, or Node's error (EACCES, ENOENT, EROFS). */
export function makeFolder(): void {
  try {
    mkdirSync(controlFolder(), { mode: 0o700 });
  } catch (error) {
    if ((error as { code?: string }).code !== 'EEXIST') throw error;
  }
  checkFolder();
}

/** The names of all sockets in the folder, dead ones included, sorted; none when there is no folder. Throws as `makeFolder`. */
export function socketNames(): string[] {
  if (!checkFolder()) return [];
  return readdirSync(controlFolder(), { withFileTypes: true })
    .filter(file => file.isSocket() && file.name.endsWith(ENDING))
    .map(file => file.name.slice(0, -ENDING.length))
    .filter(isControlName)
    .sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
}

/** False: there is none. */
function checkFolder(): boolean {
  const folder = controlFolder();
  const stats = lstatSync(folder, { throwIfNoEntry: false });
  if (!stats) return false;
  const why = stats.isSymbolicLink()
    ? 'is a symbolic link'
    : !stats.isDirectory()
      ? 'is no folder'
      : stats.uid !== process.geteuid!()
        ? `belongs to user ${stats.uid}`
        : (stats.mode & OTHERS_MAY_WRITE) !== 0
          ? 'can be written by others'
          : null;
  if (why) throw new ControlError('CONTROL_FOLDER', `${folder} ${why}: not using it for control sockets`);
  return true;
}
