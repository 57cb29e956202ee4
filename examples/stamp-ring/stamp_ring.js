/**
 * stamp_ring, device side: descriptors say when a received frame came, and which flow it belongs to (picture: stamp_ring.bpf.c).
 * Nothing is kept in here: main thread and worker have a ring object each, for the same queues.
 * @import { DeviceModule, Ring, RingView } from 'polynic/ring'
 */
const [PROD, EVENT, CONS, KICK, MASK, CLEAR, DESCRIPTORS] = [0, 4, 128, 132, 256, 384, 512];
const [PADDR, LEN, MARK, STAMP, SIZE] = [8, 16, 20, 24, 32];
const minus = (a, b) => (a - b) >>> 0; // indices run free, modulo 2^32

/** @type {DeviceModule} */
export default {
  name: 'stamp_ring',
  features: 0n,
  maxFrame: 1518,
  metadata: true,
  programs: new URL('stamp_ring.o', import.meta.url),
  fields: { prod: PROD, event: EVENT, cons: CONS, kick: KICK, clear: CLEAR },
  ring: ({ view }) => stampRing(view),
};

/** @type {(view: RingView) => Ring} */
function stampRing(view) {
  const slot = (queue, index) => DESCRIPTORS + (index & (view.num(queue) - 1)) * SIZE;

  function pending(queue) {
    if (view.faulty(queue)) return 0;
    const posted = minus(view.load(queue, PROD), view.cons(queue));
    if (posted <= view.num(queue)) return posted;
    view.setFaulty(queue, true);
    view.refuse(queue);
    return 0;
  }

  function gather(queue, batch, budget, receive) {
    view.clear(batch);
    let index = view.cons(queue);
    for (let left = Math.min(pending(queue), budget); left > 0 && view.hasRoom(batch); left--) {
      const at = slot(queue, index);
      index = (index + 1) >>> 0;
      const [low, high] = [view.word(queue, at + PADDR), view.word(queue, at + PADDR + 4)];
      view.take(queue, batch, low, high, view.word(queue, at + LEN), receive, index);
    }
    view.setSeen(queue, index);
    return view.count(batch);
  }

  function complete(queue, batch, n) {
    const [old, cons] = [view.cons(queue), view.endOf(queue, batch, n)];
    if (cons === old) return false;
    view.account(queue, batch, n, minus(cons, old));
    view.setCons(queue, cons);
    view.store(queue, CONS, cons); // then the load of event: the guest does it the other way round
    return minus(minus(cons, view.load(queue, EVENT)), 1) < minus(cons, old);
  }

  function push(queue, batch, n) {
    const end = view.endOf(queue, batch, n);
    for (let index = view.cons(queue), i = 0; index !== end; index = (index + 1) >>> 0) {
      const at = slot(queue, index);
      const filled = i < n && view.end(batch, i) === (index + 1) >>> 0;
      view.setWord(queue, at + LEN, filled ? view.length(batch, i) : 0); // a bad buffer goes back empty
      if (!filled) continue;
      view.setWord(queue, at + MARK, view.mark(batch, i));
      view.setWord(queue, at + STAMP, view.stampLow(batch, i));
      view.setWord(queue, at + STAMP + 4, view.stampHigh(batch, i));
      i++;
    }
    return complete(queue, batch, n);
  }

  return {
    contextSize: num => view.head + DESCRIPTORS + num * SIZE,
    initialise(queue) {
      view.zero(queue, DESCRIPTORS + view.num(queue) * SIZE);
      view.setWord(queue, MASK, view.num(queue) - 1); // for the programs; never read back
      view.setWord(queue, KICK, 1);
      view.setCons(queue, 0);
      view.setFaulty(queue, false);
    },
    resume(queue) {
      view.setCons(queue, view.load(queue, CONS)); // the guest's reclaim has moved it
      view.setFaulty(queue, false);
      pending(queue);
      return !view.faulty(queue);
    },
    ...{ pending, complete, push },
    pop: (queue, batch, budget) => gather(queue, batch, budget, false),
    room: (queue, batch, budget) => gather(queue, batch, budget, true),
    kicks(queue, on) {
      view.store(queue, KICK, on ? 1 : 0); // then the load of prod
      return pending(queue) !== 0;
    },
  };
}
