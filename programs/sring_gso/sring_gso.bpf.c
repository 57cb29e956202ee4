/*
 * sring_gso.bpf.c - the guest's programs of the sring_gso device type. sring_gso.h has the picture of the ring.
 *
 * As in sring, publish copies bufs[] into descriptors at prod and complete copies them back at clear, a packet at a time.
 * Between the packet and its last descriptor the offload request travels, by way of the driver's virtio-net header.
 */
#include "sring_gso.h"

BPFHV_INLINE struct sring_gso_ring *ring_of(struct bpfhv_ctx *ctx) { return (struct sring_gso_ring *)ctx->opaque; }

/* Copies bufs[i] into the descriptor; flags and all offload fields are 0. */
BPFHV_INLINE void put(const struct bpfhv_buf *buf, struct sring_gso_desc *desc) {
    WRITE_ONCE(desc->cookie, buf->cookie);
    WRITE_ONCE(desc->paddr, buf->paddr);
    WRITE_ONCE(*(u64 *)&desc->len, (u64)(u16)buf->len);
}

/* Makes all up to `prod` visible, and says whether the device wants to be told. */
BPFHV_INLINE int publish(struct bpfhv_ctx *ctx, u32 prod) {
    struct sring_gso_ring *ring = ring_of(ctx);

    BPFHV_PUBLISH(ring->prod, prod);
    /* The device that is going to sleep stores kick_enabled and then loads prod: one of the two sees the other. */
    smp_mb_full();
    ctx->oflags = READ_ONCE(ring->kick_enabled) ? BPFHV_OFLAG_KICK_NEEDED : 0;
    return 0;
}

/* Copies the descriptor into bufs[slot]; returns the descriptor's flags. */
BPFHV_INLINE u32 take(struct bpfhv_ctx *ctx, u32 slot, const struct sring_gso_desc *desc) {
    struct bpfhv_buf *buf = &ctx->bufs[slot];
    u32 meta = READ_ONCE(*(const u32 *)&desc->len); /* len and flags */

    buf->cookie = READ_ONCE(desc->cookie);
    buf->paddr = READ_ONCE(desc->paddr);
    buf->vaddr = 0;
    buf->len = meta & 0xffff;
    buf->reserved = 0;
    return meta >> 16;
}

/*
 * Takes back descriptors [clear, end) up to the first with EOP as bufs[]. 1, or 0 when there are none; a packet without an end
 * is an error, and takes nothing. `last` becomes the index of the descriptor with EOP, `flags` its flags.
 */
BPFHV_INLINE int take_packet(struct bpfhv_ctx *ctx, u32 end, u32 *last, u32 *flags) {
    struct sring_gso_ring *ring = ring_of(ctx);
    u32 clear = READ_ONCE(ring->clear);
    u32 qmask = READ_ONCE(ring->qmask);
    u32 available = end - clear;

    if (available == 0) return 0;
    for (u32 i = 0; i < BPFHV_MAX_BUFS && i < available; i++) {
        *flags = take(ctx, i, &ring->desc[(clear + i) & qmask]);
        if ((*flags & SRING_GSO_EOP) == 0) continue;
        *last = clear + i;
        ctx->num_bufs = i + 1;
        BPFHV_PUBLISH(ring->clear, clear + i + 1);
        return 1;
    }
    return -BPFHV_EINVAL;
}

/* After arming: 1 if `wanted` descriptors are completed already, so that the interrupt may never come. */
BPFHV_INLINE int enough_completed(struct sring_gso_ring *ring, u32 clear, u32 wanted) {
    smp_mb_full();
    return READ_ONCE(ring->cons) - clear >= wanted;
}

BPFHV_PROGRAM("rxp") int sring_gso_rx_publish(struct bpfhv_rx_context *ctx) {
    struct sring_gso_ring *ring = ring_of(ctx);
    u32 num_bufs = ctx->num_bufs;
    u32 prod = READ_ONCE(ring->prod);
    u32 qmask = READ_ONCE(ring->qmask);

    if (num_bufs > BPFHV_MAX_BUFS) return -BPFHV_EINVAL;
    for (u32 i = 0; i < num_bufs; i++) put(&ctx->bufs[i], &ring->desc[(prod + i) & qmask]);
    return publish(ctx, prod + num_bufs);
}

BPFHV_PROGRAM("rxc") int sring_gso_rx_complete(struct bpfhv_rx_context *ctx) {
    struct sring_gso_ring *ring = ring_of(ctx);
    u32 last, flags;
    int taken = take_packet(ctx, BPFHV_OBSERVE(ring->cons), &last, &flags);

    if (taken <= 0) return taken;

    const struct sring_gso_desc *desc = &ring->desc[last & READ_ONCE(ring->qmask)];
    struct bpfhv_virtio_net_hdr hdr = {
        .flags = (flags & SRING_GSO_NEEDS_CSUM) ? 1 : 0,
        .gso_type = READ_ONCE(desc->gso_type),
        .hdr_len = READ_ONCE(desc->rx.hdr_len),
        .gso_size = READ_ONCE(desc->rx.gso_size),
        .csum_start = READ_ONCE(desc->csum_start),
        .csum_offset = READ_ONCE(desc->csum_offset),
    };

    int failed = rx_pkt_alloc(ctx);
    if (failed < 0) return failed;
    if (hdr.flags | hdr.gso_type) pkt_virtio_net_md_set(ctx, &hdr);
    return 1;
}

/* Interrupts are on or off; with 0 wanted the result is 1 and means nothing. */
BPFHV_PROGRAM("rxi") int sring_gso_rx_interrupts(struct bpfhv_rx_context *ctx) {
    struct sring_gso_ring *ring = ring_of(ctx);
    u32 wanted = ctx->min_completed_bufs;

    WRITE_ONCE(ring->intr_enabled, wanted != 0);
    return enough_completed(ring, READ_ONCE(ring->clear), wanted);
}

/*
 * The device is stopped: takes back up to 64 posted buffers, those it had completed first, and moves cons along with clear.
 * Called until it returns 0, it leaves clear == cons == prod, an empty ring on which the device can go on.
 */
BPFHV_PROGRAM("rxr") int sring_gso_rx_reclaim(struct bpfhv_rx_context *ctx) {
    struct sring_gso_ring *ring = ring_of(ctx);
    u32 clear = READ_ONCE(ring->clear);
    u32 completed = BPFHV_OBSERVE(ring->cons) - clear;
    u32 posted = READ_ONCE(ring->prod) - clear;
    u32 qmask = READ_ONCE(ring->qmask);
    u32 count = posted < BPFHV_MAX_BUFS ? posted : BPFHV_MAX_BUFS;

    for (u32 i = 0; i < count; i++) take(ctx, i, &ring->desc[(clear + i) & qmask]);
    ctx->num_bufs = count;
    WRITE_ONCE(ring->clear, clear + count);
    if (completed < count) WRITE_ONCE(ring->cons, clear + count);
    return count != 0;
}

BPFHV_PROGRAM("txp") int sring_gso_tx_publish(struct bpfhv_tx_context *ctx) {
    struct sring_gso_ring *ring = ring_of(ctx);
    u32 num_bufs = ctx->num_bufs;
    u32 prod = READ_ONCE(ring->prod);
    u32 qmask = READ_ONCE(ring->qmask);
    struct bpfhv_virtio_net_hdr hdr;

    if (num_bufs - 1 >= BPFHV_MAX_BUFS) return -BPFHV_EINVAL; /* 0 wraps around */
    for (u32 i = 0; i < num_bufs; i++) put(&ctx->bufs[i], &ring->desc[(prod + i) & qmask]);

    struct sring_gso_desc *last = &ring->desc[(prod + num_bufs - 1) & qmask];
    int needs_csum = pkt_virtio_net_md_get(ctx, &hdr) == 1;
    WRITE_ONCE(last->flags, needs_csum ? SRING_GSO_EOP | SRING_GSO_NEEDS_CSUM : SRING_GSO_EOP);
    WRITE_ONCE(last->csum_start, hdr.csum_start);
    WRITE_ONCE(last->csum_offset, hdr.csum_offset);
    WRITE_ONCE(last->tx.hdr_len, hdr.hdr_len);
    WRITE_ONCE(last->tx.gso_size, hdr.gso_size);
    WRITE_ONCE(*(u32 *)&last->gso_type, (u32)hdr.gso_type);
    return publish(ctx, prod + num_bufs);
}

BPFHV_PROGRAM("txc") int sring_gso_tx_complete(struct bpfhv_tx_context *ctx) {
    u32 last, flags;

    return take_packet(ctx, BPFHV_OBSERVE(ring_of(ctx)->cons), &last, &flags);
}

/*
 * The interrupt comes when the device is done with the descriptor intr_at, which is to be the last of those wanted:
 *
 *   clear                clear + wanted - 1
 *     [ 1 ][ 2 ] ... [ wanted ][ ... ]
 *
 * There is nothing to switch off: the device passes an index that lies behind it once in 2^32 descriptors.
 */
BPFHV_PROGRAM("txi") int sring_gso_tx_interrupts(struct bpfhv_tx_context *ctx) {
    struct sring_gso_ring *ring = ring_of(ctx);
    u32 wanted = ctx->min_completed_bufs;

    if (wanted == 0) return 0;

    u32 clear = READ_ONCE(ring->clear);
    WRITE_ONCE(ring->intr_at, clear + wanted - 1);
    return enough_completed(ring, clear, wanted);
}

/* As rxr, one packet at a time. */
BPFHV_PROGRAM("txr") int sring_gso_tx_reclaim(struct bpfhv_tx_context *ctx) {
    struct sring_gso_ring *ring = ring_of(ctx);
    u32 completed = BPFHV_OBSERVE(ring->cons) - READ_ONCE(ring->clear);
    u32 last, flags;
    int taken = take_packet(ctx, READ_ONCE(ring->prod), &last, &flags);

    if (taken > 0 && completed < ctx->num_bufs) WRITE_ONCE(ring->cons, last + 1);
    return taken;
}
