/*
 * The sring layout again, written as an object with methods: a cursor on the stack that inline functions get by pointer. Offsets instead of
 * structures, atomic updates of the indices, a constant stored as an immediate, and txp loops as if a packet had many buffers.
 */
#include <stdint.h>

enum { NUM_BUFS = 16, OFLAGS = 24, WANTED = 28, BUFS = 48, OPAQUE = 2096 };
enum { PROD = OPAQUE, INTR = OPAQUE + 4, CONS = OPAQUE + 128, KICK = OPAQUE + 132, QMASK = OPAQUE + 256, CLEAR = OPAQUE + 384 };
enum { SLOTS = OPAQUE + 512, SLOT_SIZE = 24, BUF_SIZE = 32 };

static int (*const pkt_alloc)(uint8_t *) = (int (*)(uint8_t *))0x4b8f0000;
static int (*const barrier)(void) = (int (*)(void))0x4b8f0009;

typedef struct {
    uint8_t *ctx;
    uint8_t *buf;
    uint32_t index;
    uint32_t mask;
} cursor;

static inline uint32_t peek(const uint8_t *ctx, int at) { return *(const volatile uint32_t *)(ctx + at); }
static inline void poke(uint8_t *ctx, int at, uint32_t value) { *(volatile uint32_t *)(ctx + at) = value; }
static inline uint64_t *wide(uint8_t *at) { return (uint64_t *)at; }

static inline void cursor_init(cursor *c, uint8_t *ctx, int index) {
    c->ctx = ctx;
    c->buf = ctx + BUFS;
    c->index = peek(ctx, index);
    c->mask = peek(ctx, QMASK);
}

static inline uint8_t *cursor_slot(const cursor *c) {
    return c->ctx + SLOTS + (uint64_t)(c->index & c->mask) * SLOT_SIZE;
}

static inline void cursor_next(cursor *c) {
    c->buf += BUF_SIZE;
    c->index++;
}

static inline void cursor_put(const cursor *c) {
    uint8_t *slot = cursor_slot(c);

    wide(slot)[0] = wide(c->buf)[0];
    wide(slot)[1] = wide(c->buf)[1];
    wide(slot)[2] = *(uint32_t *)(c->buf + 24);
}

static inline void cursor_get(const cursor *c) {
    const uint64_t *slot = wide(cursor_slot(c));

    wide(c->buf)[0] = slot[0];
    wide(c->buf)[1] = slot[1];
    wide(c->buf)[2] = 0;
    wide(c->buf)[3] = (uint32_t)slot[2];
}

/* num_bufs = 1, as an immediate, which this compiler has no mind to do by itself. */
static inline void one_buffer(uint8_t *context) {
    register uint8_t *ctx __asm__("r1") = context;
    __asm__ volatile(".8byte 0x0000000100100162" : : "r"(ctx) : "memory"); /* *(u32 *)(r1 + 16) = 1 */
}

static inline int put_all(uint8_t *ctx) {
    cursor c;
    uint32_t n = peek(ctx, NUM_BUFS);

    cursor_init(&c, ctx, PROD);
    do {
        if (n == 0) break;
        cursor_put(&c);
        cursor_next(&c);
    } while (--n);
    __sync_fetch_and_add((uint32_t *)(ctx + PROD), peek(ctx, NUM_BUFS));
    barrier();
    poke(ctx, OFLAGS, peek(ctx, KICK) & 1);
    return 0;
}

static inline int get_one(uint8_t *ctx) {
    cursor c;

    cursor_init(&c, ctx, CLEAR);
    if (peek(ctx, CONS) == c.index) return 0;
    cursor_get(&c);
    one_buffer(ctx);
    __sync_fetch_and_add((uint32_t *)(ctx + CLEAR), 1);
    return 1;
}

static inline int take_back(uint8_t *ctx, uint32_t most) {
    uint32_t completed = peek(ctx, CONS) - peek(ctx, CLEAR);
    uint32_t prod = peek(ctx, PROD), n = 0;
    cursor c;

    for (cursor_init(&c, ctx, CLEAR); c.index != prod; cursor_next(&c)) {
        if (n == most) break;
        cursor_get(&c);
        n++;
    }
    poke(ctx, NUM_BUFS, n);
    poke(ctx, CLEAR, c.index);
    if (completed < n) poke(ctx, CONS, c.index);
    return n ? 1 : 0;
}

static inline int done(uint8_t *ctx, uint32_t wanted) {
    barrier();
    return (peek(ctx, CONS) - peek(ctx, CLEAR)) >= wanted;
}

#define PROGRAM(name) __attribute__((section(#name), used)) int name##_program(uint8_t *ctx)

PROGRAM(rxp) { return put_all(ctx); }
PROGRAM(txp) { return put_all(ctx); }
PROGRAM(txc) { return get_one(ctx); }
PROGRAM(rxr) { return take_back(ctx, 64); }
PROGRAM(txr) { return take_back(ctx, 1); }

PROGRAM(rxc) {
    int failed;

    if (get_one(ctx) == 0) return 0;
    failed = pkt_alloc(ctx);
    return failed ? failed : 1;
}

PROGRAM(rxi) {
    uint32_t wanted = peek(ctx, WANTED);
    poke(ctx, INTR, wanted != 0);
    return done(ctx, wanted);
}

PROGRAM(txi) {
    uint32_t wanted = peek(ctx, WANTED);
    if (!wanted) return 0;
    poke(ctx, INTR, peek(ctx, CLEAR) + wanted - 1);
    return done(ctx, wanted);
}
