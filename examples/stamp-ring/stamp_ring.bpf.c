/*
 * stamp_ring.bpf.c - the guest's programs. Indices run free, the slot of an index is `index & mask`:
 *
 *      clear            cons              prod          clear, prod, event: the guest's
 *   -----+----------------+-----------------+------>    cons, kick: the device's; mask is set once
 *        '- taken back    '- the device     '- published here
 */
#include "bpfhv.h"

struct stamp_desc {
    u64 cookie;
    u64 paddr;
    u32 len;   /* of a receive buffer: its room, then the received length */
    u32 mark;  /* received: which flow */
    u64 stamp; /* received: when, nanoseconds since 1970 */
};

struct stamp_ring {
    u32 prod, event, pad0[30]; /* event: interrupt when the descriptor with this index is done */
    u32 cons, kick, pad1[30];
    u32 mask, pad2[31];
    u32 clear, pad3[31];
    struct stamp_desc desc[];
};
BPFHV_ASSERT_SIZE(struct stamp_desc, 32);
BPFHV_ASSERT_OFFSET(struct stamp_ring, desc, 512);

#define RING(ctx) ((struct stamp_ring *)(ctx)->opaque)

BPFHV_INLINE int publish(struct bpfhv_ctx *ctx, u32 most) {
    struct stamp_ring *ring = RING(ctx);
    u32 prod = READ_ONCE(ring->prod), mask = READ_ONCE(ring->mask), count = ctx->num_bufs;
    if (count == 0 || count > most) return -BPFHV_EINVAL;
    for (u32 i = 0; i < count; i++) {
        struct stamp_desc *desc = &ring->desc[(prod + i) & mask];
        WRITE_ONCE(desc->cookie, ctx->bufs[i].cookie);
        WRITE_ONCE(desc->paddr, ctx->bufs[i].paddr);
        WRITE_ONCE(desc->len, ctx->bufs[i].len);
    }
    BPFHV_PUBLISH(ring->prod, prod + count);
    smp_mb_full(); /* the device stores kick, then loads prod: one of the two sees the other */
    ctx->oflags = READ_ONCE(ring->kick) ? BPFHV_OFLAG_KICK_NEEDED : 0;
    return 0;
}

BPFHV_INLINE struct stamp_desc *take(struct bpfhv_ctx *ctx, u32 i, u32 index, u32 mask) {
    struct stamp_desc *desc = &RING(ctx)->desc[index & mask];
    struct bpfhv_buf *buf = &ctx->bufs[i];
    buf->cookie = READ_ONCE(desc->cookie);
    buf->paddr = READ_ONCE(desc->paddr);
    buf->vaddr = 0;
    buf->len = READ_ONCE(desc->len);
    return desc;
}

/* The oldest completed descriptor as bufs[0]; 0 when there is none. */
BPFHV_INLINE struct stamp_desc *complete(struct bpfhv_ctx *ctx) {
    struct stamp_ring *ring = RING(ctx);
    u32 clear = READ_ONCE(ring->clear);
    if (BPFHV_OBSERVE(ring->cons) == clear) return 0;
    ctx->num_bufs = 1;
    BPFHV_PUBLISH(ring->clear, clear + 1);
    return take(ctx, 0, clear, READ_ONCE(ring->mask));
}

/* Asks for an interrupt at the last descriptor wanted; with 0, at one that the device passed long ago. */
BPFHV_INLINE int interrupts(struct bpfhv_ctx *ctx) {
    struct stamp_ring *ring = RING(ctx);
    u32 clear = READ_ONCE(ring->clear), wanted = ctx->min_completed_bufs;
    WRITE_ONCE(ring->event, clear + wanted - 1);
    smp_mb_full();
    return READ_ONCE(ring->cons) - clear >= wanted;
}

/* The device is stopped: takes back what is posted, done or not, and moves cons along. */
BPFHV_INLINE int reclaim(struct bpfhv_ctx *ctx, u32 most) {
    struct stamp_ring *ring = RING(ctx);
    u32 clear = READ_ONCE(ring->clear), completed = READ_ONCE(ring->cons) - clear;
    u32 posted = READ_ONCE(ring->prod) - clear, mask = READ_ONCE(ring->mask);
    u32 count = posted < most ? posted : most;
    for (u32 i = 0; i < count; i++) take(ctx, i, clear + i, mask);
    ctx->num_bufs = count;
    WRITE_ONCE(ring->clear, clear + count);
    if (completed < count) WRITE_ONCE(ring->cons, clear + count);
    return count != 0;
}

BPFHV_PROGRAM("rxp") int rx_publish(struct bpfhv_rx_context *ctx) { return publish(ctx, BPFHV_MAX_BUFS); }
BPFHV_PROGRAM("rxi") int rx_interrupts(struct bpfhv_rx_context *ctx) { return interrupts(ctx); }
BPFHV_PROGRAM("rxr") int rx_reclaim(struct bpfhv_rx_context *ctx) { return reclaim(ctx, BPFHV_MAX_BUFS); }
BPFHV_PROGRAM("txp") int tx_publish(struct bpfhv_tx_context *ctx) { return publish(ctx, 1); }
BPFHV_PROGRAM("txc") int tx_complete(struct bpfhv_tx_context *ctx) { return complete(ctx) != 0; }
BPFHV_PROGRAM("txi") int tx_interrupts(struct bpfhv_tx_context *ctx) { return interrupts(ctx); }
BPFHV_PROGRAM("txr") int tx_reclaim(struct bpfhv_tx_context *ctx) { return reclaim(ctx, 1); }
BPFHV_PROGRAM("rxc") int rx_complete(struct bpfhv_rx_context *ctx) {
    struct stamp_desc *desc = complete(ctx);
    if (!desc) return 0;
    int failed = rx_pkt_alloc(ctx);
    if (failed < 0) return failed;
    pkt_meta_set(ctx, READ_ONCE(desc->stamp), READ_ONCE(desc->mark));
    return 1;
}
