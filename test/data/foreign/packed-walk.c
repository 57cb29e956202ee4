/*
 * vring_packed as a walker that is copied to the stack, moved there, and written back; unions for what is read as one word. Local functions
 * are real ones: the linker puts them behind the programs.
 */
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

union turn { u16 bits; struct { u16 next : 1, write : 1, indirect : 1, : 4, avail : 1, : 7, used : 1; }; };
union event { u32 word; struct { u16 off : 15, wrap : 1, flags; }; };
union tail { u64 word; struct { u32 len; u16 id; union turn turn; }; };

struct ctx { u64 priv, packet; u32 num_bufs, iflags, oflags, wanted, nsecs, rsv[3]; struct { u64 cookie, paddr, vaddr; u32 len, rsv; } bufs[64]; };
struct entry { u64 addr; union tail tail; };
struct slot { u64 cookie; u16 busy, num, next, last; };

struct ring {
    u16 free_id, avail, used;
    u8 avail_wrap, used_wrap;
    u16 avail_used;
    u8 _0[118];
    u64 state_ofs;
    u32 num;
    u8 _1[52];
    union event driver;
    u8 _2[60];
    union event device;
    u8 _3[60];
    struct entry entry[];
};

/* One place in the ring: which entry, in which lap. */
struct walker { u32 num; u16 at; u16 wrap; };

#define NOINLINE static __attribute__((noinline))
#define once(x) (*(volatile __typeof__(x) *)&(x))
#define ring_of(c) ((struct ring *)((c) + 1))

static inline struct slot *slot_of(struct ring *r, u16 id) {
    return (struct slot *)((char *)r + once(r->state_ofs)) + id;
}

static inline void walk(struct walker *w) {
    w->at++;
    if (w->at == w->num) {
        w->at = 0;
        w->wrap = !w->wrap;
    }
}

NOINLINE u32 kick_due(u64 event, u64 now, u64 wrap, u64 moved, u64 num) {
    union event e = {.word = (u32)event};
    u16 at;

    if (e.flags != 2) return e.flags == 0;
    at = e.off;
    if (e.wrap != wrap) at -= num;
    return (u16)(now - at - 1) < (u16)moved;
}

static inline int publish(struct ctx *c, int write) {
    struct ring *r = ring_of(c);
    struct walker w = {once(r->num), once(r->avail), once(r->avail_wrap)};
    u16 id = once(r->free_id);
    u32 i = 0;

    while (i < c->num_bufs) {
        struct slot *s = slot_of(r, id);
        union tail tail = {.len = c->bufs[i].len};

        tail.id = id;
        tail.turn.write = write;
        tail.turn.avail = w.wrap;
        tail.turn.used = !w.wrap;
        s->cookie = c->bufs[i].cookie;
        s->busy = s->num = 1;
        s->last = id;
        id = s->next;
        r->entry[w.at].addr = c->bufs[i].paddr;
        __asm__ volatile("" ::: "memory");
        once(r->entry[w.at].tail.word) = tail.word;
        walk(&w);
        i++;
    }
    r->free_id = id;
    r->avail = w.at;
    r->avail_wrap = w.wrap;
    r->avail_used = w.wrap ? 0x80 : 0x8000;
    ((int (*)(void))0x4b8f0009)();
    c->oflags = kick_due(once(r->device.word), w.at, w.wrap, i, w.num);
    return 0;
}

static inline int is_used(union turn t, u16 wrap) { return t.avail == wrap && t.used == wrap; }

static inline void hand_back(struct ctx *c, u32 i, struct ring *r, struct slot *s, struct entry *e, union tail tail) {
    c->bufs[i].cookie = s->cookie;
    c->bufs[i].paddr = e->addr;
    c->bufs[i].vaddr = 0;
    c->bufs[i].len = tail.len;
    s->busy = 0;
    s->next = r->free_id;
    r->free_id = tail.id;
}

static inline int take(struct ctx *c, u32 most, int stopped) {
    struct ring *r = ring_of(c);
    struct walker w = {once(r->num), once(r->used), once(r->used_wrap)};
    u32 i;

    for (i = 0; i < most; i++) {
        struct entry *e = &r->entry[w.at];
        union tail tail = {.word = once(e->tail.word)};
        struct slot *s;

        if (stopped ? w.at == r->avail && w.wrap == r->avail_wrap : !is_used(tail.turn, w.wrap)) break;
        if (tail.id >= w.num) return -22;
        s = slot_of(r, tail.id);
        if (!s->busy) return -22;
        hand_back(c, i, r, s, e, tail);
        walk(&w);
    }
    r->used = w.at;
    r->used_wrap = w.wrap;
    c->num_bufs = i;
    return i > 0;
}

static inline int arm(struct ctx *c) {
    struct ring *r = ring_of(c);
    struct walker w = {once(r->num), once(r->used), once(r->used_wrap)};
    union event e = {.word = 0};
    union tail tail;

    e.flags = 1;
    if (c->wanted) {
        for (u32 n = 1; n < c->wanted && n < w.num; n++) walk(&w);
        e.off = w.at;
        e.wrap = w.wrap;
        e.flags = 2;
    }
    once(r->driver.word) = e.word;
    if (!c->wanted) return 0;
    ((int (*)(void))0x4b8f0009)();
    tail.word = once(r->entry[w.at].tail.word);
    return is_used(tail.turn, w.wrap);
}

#define PROG(n) __attribute__((section(n), used)) int
PROG("rxp") pk_a(struct ctx *c) { return publish(c, 1); }
PROG("rxc") pk_b(struct ctx *c) { int n = take(c, 1, 0); return n <= 0 ? n : ((int (*)(struct ctx *))0x4b8f0000)(c) == 0 ? 1 : -12; }
PROG("rxi") pk_c(struct ctx *c) { return arm(c); }
PROG("rxr") pk_d(struct ctx *c) { return take(c, 64, 1); }
PROG("txp") pk_e(struct ctx *c) { return publish(c, 0); }
PROG("txc") pk_f(struct ctx *c) { return take(c, 1, 0); }
PROG("txi") pk_g(struct ctx *c) { return arm(c); }
PROG("txr") pk_h(struct ctx *c) { return take(c, 1, 1); }
