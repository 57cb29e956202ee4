/**
 * Either side dies in the middle of an upgrade: before it sends a message or right after, for every message that an upgrade takes. Whoever is left goes on
 * with whoever comes next, and nothing is left behind.
 *
 * ```
 *   guest's device    GET_FEATURES ──►      SET_PARAMETERS ──►    …   RX_DISABLE, TX_DISABLE ──►     …    RX_ENABLE, TX_ENABLE ──►
 *   backend                        ◄── its answer        ◄── …                                ◄── …                          ◄──
 *                  ▲              ▲  ▲ each of these          the driver prepares │ stops, hands over, goes │
 * ```
 */
import assert from 'node:assert/strict';
import { type Channel, requestLabel } from '../../src/control/bpfhv-proxy/index.js';
import { openFds } from '../../src/linux/fd.js';
import { openMappings } from '../../src/linux/mmap.js';
import type { UpgradeReport } from '../../src/nic/upgrade.js';
import { deviceType } from '../../src/ring/registry.js';
import { arena, eventually } from '../compliance/testbed.js';
import { Backend, Guest, guestTest } from './driver-rig.js';
import { Wire } from './wire.js';

type End = 'guest' | 'backend';

/** A message of an upgrade, and who dies when it is due. */
interface Death {
  readonly message: number;
  readonly when: 'before' | 'after';
}

/** What is said from the beginning of an upgrade on, by both ends, in this order; at one of the messages its sender dies. */
class Conversation {
  readonly said: { readonly by: End; readonly label: string }[] = [];
  readonly #death: Death | null;
  #begun = false;
  dead = false;
  outcome: Promise<UpgradeReport> | null = null;

  constructor(death: Death | null) {
    this.#death = death;
  }

  begin(): void {
    this.#begun = true;
  }

  readonly tap = (by: End, channel: Channel): Channel => ({
    receive: buffer => channel.receive(buffer),
    whenReadable: callback => channel.whenReadable(callback),
    whenSent: callback => channel.whenSent(callback),
    get unsent() {
      return channel.unsent;
    },
    close: () => channel.close(),
    send: (bytes, fds, patiently) => {
      if (!this.#begun) return channel.send(bytes, fds, patiently);
      const due = this.said.length === this.#death?.message;
      const label = requestLabel(new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true));
      this.said.push({ by, label });
      if (!due || this.#death?.when === 'after') channel.send(bytes, fds);
      if (!due) return;
      this.dead = true;
      channel.close();
      throw new Error(`the ${by} dies`);
    },
  });
}

const LONG = process.env.POLYNIC_LONG === 'soak';
/** Frames each way that are on their way. */
const FLOOD = 20;
const TYPES = ['sring', 'sring_gso', 'vring_packed'] as const;
const held = () => ({ live: arena.live, fds: openFds().length, mappings: openMappings().length });

/** A frame arrives, and what was sent before it has arrived or is lost. */
async function arrives(from: Wire, to: Wire, number: number): Promise<void> {
  from.send(number);
  while ((await to.next()) !== number);
}

/** One cable, whose two ends are here. */
class Cable {
  readonly near: Wire;
  readonly far: Wire;
  #number = 0;

  constructor(near: Wire, far: Wire) {
    this.near = near;
    this.far = far;
  }

  async works(): Promise<void> {
    this.#number++;
    await Promise.all([
      arrives(this.near, this.far, this.#number),
      arrives(this.far, this.near, this.#number),
    ]);
  }

  /** Frames are on their way for a while, which nobody waits for. */
  flood(): void {
    for (let i = 0; i < FLOOD; i++) for (const wire of [this.near, this.far]) wire.send(0);
  }
}

/** An upgrade on a running link, as far as it comes. */
async function upgrade(
  guest: Guest,
  backend: Backend,
  cable: Cable,
  to: string,
  death: Death | null,
): Promise<Conversation> {
  const conversation = new Conversation(death);
  const { over } = guest.connect(backend.nic, conversation.tap);
  await guest.driver.whenRunning();
  await cable.works();
  cable.flood();
  conversation.begin();
  conversation.outcome = backend.nic.upgrade({ device: deviceType(to)! });
  conversation.outcome.catch(() => {}); // it is looked at later
  if (!death) await eventually(() => guest.driver.stats().upgrades === 1);
  else {
    await eventually(() => conversation.dead);
    await over;
  }
  return conversation;
}

/** All messages of an upgrade that nobody dies in. */
async function plainConversation(): Promise<Conversation['said']> {
  const cable = new Cable(new Wire('near'), new Wire('far'));
  const backend = await Backend.start(cable.far.port, { device: TYPES[0] });
  const guest = await Guest.start({ netdev: cable.near.port });
  try {
    await guest.driver.setInterfaceUp(true);
    return [...(await upgrade(guest, backend, cable, TYPES[1], null)).said]; // those that end it come later
  } finally {
    await guest.close();
    await backend.close();
  }
}

interface NamedDeath extends Death {
  readonly n: number;
  readonly what: string;
}

/** Every death of one end; on an everyday run one for each message: the guest's is sent, the backend's is not. */
function deaths(end: End, said: Conversation['said']): NamedDeath[] {
  const everyday = [end === 'guest' ? 'after' : 'before'] as const;
  return said
    .flatMap(({ by, label }, message) => (by === end ? [{ message, label }] : []))
    .flatMap(({ message, label }) =>
      (LONG ? (['before', 'after'] as const) : everyday).map(when => ({ message, label, when })),
    )
    .map(({ message, label, when }, n) => {
      const what = `the ${end} dies ${when} its ${end === 'guest' ? '' : 'answer to '}${label}`;
      return { message, when, n, what };
    });
}

guestTest('the messages of an upgrade: the backend is asked, stopped, and started', async () => {
  const said = await plainConversation();
  const [guest, backend] = (['guest', 'backend'] as const).map(end =>
    said.filter(({ by }) => by === end).map(({ label }) => label),
  );
  assert.deepEqual(guest, [
    ...['GET_FEATURES', 'SET_PARAMETERS', 'GET_PROGRAMS', 'SET_FEATURES'],
    ...['SET_QUEUE_CTX', 'SET_QUEUE_CTX', 'RX_DISABLE', 'TX_DISABLE', 'RX_ENABLE', 'TX_ENABLE'],
  ]);
  assert.deepEqual(backend, guest, 'each is answered');
});

guestTest('the backend dies: the driver lets go of both contracts, and takes the next backend', async () => {
  const said = await plainConversation();
  const near = new Wire('near');
  const guest = await Guest.start({ netdev: near.port });
  await guest.driver.setInterfaceUp(true);
  const before = held();
  for (const { n, what, ...death } of deaths('backend', said)) {
    const cable = new Cable(near, new Wire('far'));
    const backend = await Backend.start(cable.far.port, { device: TYPES[n % 3]! });
    await upgrade(guest, backend, cable, TYPES[(n + 1) % 3]!, death);
    await backend.close();
    await eventually(() => !guest.driver.running && guest.ram.live === 0);
    assert.equal(guest.carrier.at(-1), false, what);
    assert.deepEqual(held(), before, `left behind when ${what}`);
  }
  const cable = new Cable(near, new Wire('far'));
  const next = await Backend.start(cable.far.port, { device: 'vring_packed' });
  guest.connect(next.nic);
  await guest.driver.whenRunning();
  await cable.works();
  await guest.close();
  await next.close();
});

guestTest('the guest dies: the backend serves the next one, by the new contract', async () => {
  const said = await plainConversation();
  const far = new Wire('far');
  const backend = await Backend.start(far.port, { device: TYPES[0] });
  const before = held();
  for (const { n, what, ...death } of deaths('guest', said)) {
    const to = TYPES[(n + 1) % 3]!;
    assert.equal(backend.nic.device.name, TYPES[n % 3], what);
    const cable = new Cable(new Wire('near'), far);
    const guest = await Guest.start({ netdev: cable.near.port });
    await guest.driver.setInterfaceUp(true);
    const { outcome } = await upgrade(guest, backend, cable, to, death);
    await guest.close();
    assert.match((await outcome!).outcome, /^(waiting|done)$/, what);
    assert.deepEqual([backend.nic.running, backend.nic.device.name], [false, to], what);
    assert.deepEqual(held(), before, `left behind when ${what}`);
  }
  await backend.close();
});
