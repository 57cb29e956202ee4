/*
 * sring.bpf.c - the guest's programs of the sring device type. sring.h has the picture of the ring.
 *
 * A round trip of a buffer: publish copies it from bufs[] into descriptors at prod; the device works through them and moves
 * cons; complete copies one back at clear. The programs do not check for room: the driver counts what is in flight.
 */
#include "sring.h"

BPFHV_INLINE struct sring_ring *ring_of(struct bpfhv_ctx *ctx) { return (struct sring_ring *)ctx->opaque; }

/*
 * The device has read the descriptors ahead of prod a round ago, so the first store to each of their cache lines waits for
 * the other core, and the barrier in publish waits for the store: once every three packets. Storing to three lines at
 * once, every eighth packet, makes one wait of the three. The pad is nobody's, in slots that the device has too.
 */
BPFHV_INLINE void fetch_ahead(struct sring_ring *ring, u32 prod, u32 qmask) {
    if ((prod & 7) != 0) return;
    for (u32 i = 0; i < 8; i++) WRITE_ONCE(ring->desc[(prod + i) & qmask].pad, 0);
}

enum { NOT_AHEAD, AHEAD };

/* Appends bufs[0..num_bufs), makes them visible, and says whether the device wants to be told. */
BPFHV_INLINE int publish(struct bpfhv_ctx *ctx, u32 num_bufs, int ahead) {
    struct sring_ring *ring = ring_of(ctx);
    u32 prod = READ_ONCE(ring->prod);
    u32 qmask = READ_ONCE(ring->qmask);

    if (ahead) fetch_ahead(ring, prod, qmask);
    for (u32 i = 0; i < num_bufs; i++) {
        const struct bpfhv_buf *buf = &ctx->bufs[i];
        struct sring_desc *desc = &ring->desc[(prod + i) & qmask];

        WRITE_ONCE(desc->cookie, buf->cookie);
        WRITE_ONCE(desc->paddr, buf->paddr);
        WRITE_ONCE(desc->len, buf->len);
    }
    BPFHV_PUBLISH(ring->prod, prod + num_bufs);
    /* The device that is going to sleep stores kick_enabled and then loads prod: one of the two sees the other. */
    smp_mb_full();
    ctx->oflags = READ_ONCE(ring->kick_enabled) ? BPFHV_OFLAG_KICK_NEEDED : 0;
    return 0;
}

/* Copies the descriptor with this index into bufs[slot]. */
BPFHV_INLINE void take(struct bpfhv_ctx *ctx, u32 slot, u32 index, u32 qmask) {
    struct sring_desc *desc = &ring_of(ctx)->desc[index & qmask];
    struct bpfhv_buf *buf = &ctx->bufs[slot];

    buf->cookie = READ_ONCE(desc->cookie);
    buf->paddr = READ_ONCE(desc->paddr);
    buf->vaddr = 0;
    buf->len = READ_ONCE(desc->len);
    buf->reserved = 0;
}

/* Takes back one completed descriptor as bufs[0]. 1, or 0 when there is none. */
BPFHV_INLINE int complete(struct bpfhv_ctx *ctx) {
    struct sring_ring *ring = ring_of(ctx);
    u32 clear = READ_ONCE(ring->clear);

    if (BPFHV_OBSERVE(ring->cons) == clear) return 0;
    take(ctx, 0, clear, READ_ONCE(ring->qmask));
    ctx->num_bufs = 1;
    BPFHV_PUBLISH(ring->clear, clear + 1);
    return 1;
}

/* After arming: 1 if `wanted` descriptors are completed already, so that the interrupt may never come. */
BPFHV_INLINE int enough_completed(struct sring_ring *ring, u32 clear, u32 wanted) {
    smp_mb_full();
    return READ_ONCE(ring->cons) - clear >= wanted;
}

/*
 * The device is stopped: takes back up to `limit` posted descriptors, those it had completed first, and moves cons along
 * with clear. Called until it returns 0, it leaves clear == cons == prod, an empty ring on which the device can go on.
 */
BPFHV_INLINE int reclaim(struct bpfhv_ctx *ctx, u32 limit) {
    struct sring_ring *ring = ring_of(ctx);
    u32 clear = READ_ONCE(ring->clear);
    u32 completed = BPFHV_OBSERVE(ring->cons) - clear;
    u32 posted = READ_ONCE(ring->prod) - clear;
    u32 qmask = READ_ONCE(ring->qmask);
    u32 count = posted < limit ? posted : limit;

    for (u32 i = 0; i < count; i++) take(ctx, i, clear + i, qmask);
    ctx->num_bufs = count;
    WRITE_ONCE(ring->clear, clear + count);
    if (completed < count) WRITE_ONCE(ring->cons, clear + count);
    return count != 0;
}

BPFHV_PROGRAM("rxp") int sring_rx_publish(struct bpfhv_rx_context *ctx) {
    u32 num_bufs = ctx->num_bufs;

    if (num_bufs > BPFHV_MAX_BUFS) return -BPFHV_EINVAL;
    return publish(ctx, num_bufs, NOT_AHEAD);
}

BPFHV_PROGRAM("rxc") int sring_rx_complete(struct bpfhv_rx_context *ctx) {
    if (!complete(ctx)) return 0;

    int failed = rx_pkt_alloc(ctx);
    return failed < 0 ? failed : 1;
}

/* Interrupts are on or off; with 0 wanted the result is 1 and means nothing. */
BPFHV_PROGRAM("rxi") int sring_rx_interrupts(struct bpfhv_rx_context *ctx) {
    struct sring_ring *ring = ring_of(ctx);
    u32 wanted = ctx->min_completed_bufs;

    WRITE_ONCE(ring->intr_enabled, wanted != 0);
    return enough_completed(ring, READ_ONCE(ring->clear), wanted);
}

BPFHV_PROGRAM("rxr") int sring_rx_reclaim(struct bpfhv_rx_context *ctx) { return reclaim(ctx, BPFHV_MAX_BUFS); }

BPFHV_PROGRAM("txp") int sring_tx_publish(struct bpfhv_tx_context *ctx) {
    if (ctx->num_bufs != 1) return -BPFHV_EINVAL;
    return publish(ctx, 1, AHEAD);
}

BPFHV_PROGRAM("txc") int sring_tx_complete(struct bpfhv_tx_context *ctx) { return complete(ctx); }

/*
 * The interrupt comes when the device is done with the descriptor intr_at, which is to be the last of those wanted:
 *
 *   clear                clear + wanted - 1
 *     [ 1 ][ 2 ] ... [ wanted ][ ... ]
 *
 * There is nothing to switch off: the device passes an index that lies behind it once in 2^32 descriptors.
 */
BPFHV_PROGRAM("txi") int sring_tx_interrupts(struct bpfhv_tx_context *ctx) {
    struct sring_ring *ring = ring_of(ctx);
    u32 wanted = ctx->min_completed_bufs;

    if (wanted == 0) return 0;

    u32 clear = READ_ONCE(ring->clear);
    WRITE_ONCE(ring->intr_at, clear + wanted - 1);
    return enough_completed(ring, clear, wanted);
}

BPFHV_PROGRAM("txr") int sring_tx_reclaim(struct bpfhv_tx_context *ctx) { return reclaim(ctx, 1); }
