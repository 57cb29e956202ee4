/**
 * What is said over a control socket: a request, then its answer, one JSON object a line.
 *
 * ```
 *   {"op":"stats"}                              {"ok":{"queues":[…],…}}
 *   {"op":"upgrade","device":"sring_gso"}       {"error":{"code":"UPGRADE_UNSUPPORTED","message":"…"}}
 * ```
 * Who answers is a Controlled: a `serve` or a `guest`. The same requests come over stdin from a parent process (src/cli/parent.ts).
 */

/** What is to change; what is not named stays. All in the words of the command line. */
export interface UpgradeWish {
  readonly device?: string;
  readonly port?: string;
  readonly offload?: string;
  /** Descriptors of each queue, where they are the NIC's to choose. */
  readonly bufs?: number;
  readonly spin?: boolean;
  /** How long the guest may take, seconds. */
  readonly timeout?: number;
}

export interface UpgradeReport {
  /** `waiting`: no guest is there; the next one gets the contract. */
  readonly outcome: 'done' | 'waiting';
  /** Names of device types. */
  readonly from: string;
  readonly to: string;
  /** From the request on, milliseconds. */
  readonly ms: number;
}

/** A process that can be looked at, and perhaps changed. What its methods throw is the answer: `code` and the message's first line. */
export interface Controlled {
  /** What it is: see ControlInfo. */
  info(): object;
  /** Counters since the start: see ChildCounters. */
  stats(): object;
  /** The state of every queue, for people. */
  dump(): Promise<string> | string;
  upgrade?(wish: UpgradeWish): Promise<UpgradeReport>;
  /** Ends the process in good order, as SIGTERM does. */
  leave?(): void;
}

/** What `serve` and `guest` say of themselves. */
export interface ControlInfo {
  readonly pid: number;
  readonly role: 'serve' | 'guest';
  /** The ring format; null: a guest knows none. */
  readonly device: string | null;
  /** The port or network device, as the user wrote it. */
  readonly port: string;
  /** Where it meets its peer. */
  readonly socket: string;
  /** The peer is there. */
  readonly connected: boolean;
  /** Frames may move. */
  readonly running: boolean;
  readonly queues: number;
  /** Feature bits that guest and backend have agreed on, in hex; null: a guest leaves that to its driver. */
  readonly features: string | null;
}

/** `code`: CONTROL_*, or what the process at the other end answered. */
export class ControlError extends Error {
  override readonly name = 'ControlError';
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

const OPS = ['info', 'stats', 'dump', 'upgrade', 'leave'] as const;
export type ControlRequest = { readonly op: (typeof OPS)[number] } & UpgradeWish;

export type ControlAnswer =
  | { readonly ok: unknown }
  | { readonly error: { readonly code: string; readonly message: string } };

/** Bytes of a request, its end of line included. */
export const MAX_REQUEST = 4096;
/** Bytes of an answer: 64 queues take some 64 KiB. */
export const MAX_ANSWER = 1 << 20;

const WISHES = {
  device: 'string',
  port: 'string',
  offload: 'string',
  bufs: 'number',
  spin: 'boolean',
  timeout: 'number',
} as const;

/** Has a request carried out. Never rejects: what went wrong is in the answer. */
export async function answerTo(line: string, controlled: Controlled): Promise<string> {
  try {
    const ok = (await carryOut(parseRequest(line), controlled)) ?? {};
    return `${JSON.stringify({ ok } satisfies ControlAnswer)}\n`;
  } catch (error) {
    return errorLine(error);
  }
}

/** The answer that says why not. */
export function errorLine(error: unknown): string {
  const { code, message } = error as { code?: unknown; message?: unknown };
  const answer: ControlAnswer = {
    error: {
      code: typeof code === 'string' ? code : 'CONTROL_FAILED',
      message: String(message ?? error).split('\n')[0]!,
    },
  };
  return `${JSON.stringify(answer)}\n`;
}

/** Throws ControlError CONTROL_REQUEST for anything that is no request. */
function parseRequest(line: string): ControlRequest {
  const bad = (why: string) => new ControlError('CONTROL_REQUEST', `a request is one JSON object: ${why}`);
  let request: unknown;
  try {
    request = JSON.parse(line);
  } catch {
    throw bad('this is no JSON');
  }
  if (typeof request !== 'object' || request === null || Array.isArray(request)) throw bad('this is none');
  const { op, ...wish } = request as Record<string, unknown>;
  if (!OPS.some(known => known === op)) throw bad(`"op" is one of ${OPS.join(', ')}`);
  for (const [key, value] of Object.entries(wish)) {
    const kind = op === 'upgrade' && Object.hasOwn(WISHES, key) && WISHES[key as keyof typeof WISHES];
    if (!kind) throw bad(`${JSON.stringify(key)} does not belong to ${op}`);
    if (typeof value !== kind) throw bad(`"${key}" is a ${kind}`);
  }
  return request as ControlRequest;
}

/** The inverse of `answerTo`. Throws what the answer says, or ControlError CONTROL_ANSWER for what is none. */
export function parseAnswer(line: string): unknown {
  const bad = () => new ControlError('CONTROL_ANSWER', 'the answer makes no sense');
  let answer: { ok?: unknown; error?: { code?: unknown; message?: unknown } } | null;
  try {
    answer = JSON.parse(line);
  } catch {
    throw bad();
  }
  const error = answer?.error;
  if (typeof error?.code === 'string' && typeof error.message === 'string') {
    throw new ControlError(error.code, printable(error.message));
  }
  if (typeof answer !== 'object' || answer === null || answer.ok == null) throw bad();
  return answer.ok;
}

/** Text from another process, safe to be shown on a terminal: no control characters but the end of line. */
export function printable(text: string): string {
  return text.replace(/[^\P{C}\n]/gu, '?');
}

async function carryOut({ op, ...wish }: ControlRequest, controlled: Controlled): Promise<unknown> {
  switch (op) {
    case 'info':
      return controlled.info();
    case 'stats':
      return controlled.stats();
    case 'dump':
      return controlled.dump();
    case 'upgrade':
      if (!controlled.upgrade) throw unsupported('can not be upgraded');
      return controlled.upgrade(wish);
    case 'leave':
      if (!controlled.leave) throw unsupported('can not be asked to leave');
      return controlled.leave();
  }
}

function unsupported(what: string): ControlError {
  return new ControlError('CONTROL_UNSUPPORTED', `this process ${what}`);
}
