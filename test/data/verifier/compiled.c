/*
 * Ring programs in the style of others, of which compiled.asm has the code: `clang -target bpf -O2 -c`, then `polynic ebpf disasm`, one
 * case per section. A packed ring whose second table lies at an offset that is itself in shared memory; scatter-gather
 * with a loop over fragments; helpers inlined, volatile accesses, offloads through a header on the stack.
 */
#include "../../../programs/bpfhv.h"

struct packed_desc {
    u64 addr;
    u32 len;
    u16 id;
    u16 flags;
};

struct packed_state {
    u64 cookie;
    u16 busy;
    u16 num;
    u16 next;
    u16 last;
};

struct packed_ring {
    struct {
        u16 next_free_id;
        u16 next_avail_idx;
        u16 next_used_idx;
        u8 avail_wrap;
        u8 used_wrap;
        u16 avail_used_flags;
    } g;
    u8 pad0[54];
    u8 host[64];
    u64 state_ofs;
    u32 num_desc;
    u8 pad1[52];
    struct {
        u16 off_wrap;
        u16 flags;
    } driver_event;
    u8 pad2[60];
    struct {
        u16 off_wrap;
        u16 flags;
    } device_event;
    u8 pad3[60];
    struct packed_desc desc[];
};

BPFHV_INLINE struct packed_ring *ring_of(struct bpfhv_ctx *ctx) { return (struct packed_ring *)ctx->opaque; }

BPFHV_INLINE struct packed_state *state_of(struct packed_ring *ring, u16 id) {
    return (struct packed_state *)((char *)ring + ring->state_ofs) + id;
}

BPFHV_INLINE void packed_add(struct packed_ring *ring, const struct bpfhv_buf *buf, int writable) {
    u16 avail = ring->g.next_avail_idx;
    u16 id = ring->g.next_free_id;
    struct packed_state *state = state_of(ring, id);
    u16 flags = ring->g.avail_used_flags;

    ring->desc[avail].addr = buf->paddr;
    ring->desc[avail].len = buf->len;
    ring->desc[avail].id = id;
    state->cookie = buf->cookie;
    state->busy = 1;
    state->num = 1;
    state->last = id;
    BPFHV_PUBLISH(ring->desc[avail].flags, flags | (writable ? 2 : 0));
    ring->g.next_free_id = state->next;
    if (++avail >= ring->num_desc) {
        avail = 0;
        ring->g.avail_wrap ^= 1;
        ring->g.avail_used_flags ^= (1 << 7) | (1 << 15);
    }
    ring->g.next_avail_idx = avail;
}

BPFHV_INLINE int packed_kick(struct packed_ring *ring, u16 old) {
    u16 off_wrap, flags, event, next = ring->g.next_avail_idx;
    u32 both;

    smp_mb_full();
    both = READ_ONCE(*(u32 *)&ring->device_event);
    off_wrap = both & 0xffff;
    flags = both >> 16;
    if (flags != 2) return flags == 0;
    event = off_wrap & 0x7fff;
    if ((off_wrap >> 15) != ring->g.avail_wrap) event -= ring->num_desc;
    return (u16)(next - event - 1) < (u16)(next - old);
}

BPFHV_PROGRAM("packed_txp") int do_packed_txp(struct bpfhv_tx_context *ctx) {
    struct packed_ring *ring = ring_of(ctx);
    u16 old = ring->g.next_avail_idx;

    if (ctx->num_bufs != 1) return -1;
    packed_add(ring, &ctx->bufs[0], 0);
    ctx->oflags = packed_kick(ring, old) ? BPFHV_OFLAG_KICK_NEEDED : 0;
    return 0;
}

BPFHV_PROGRAM("packed_rxp") int do_packed_rxp(struct bpfhv_rx_context *ctx) {
    struct packed_ring *ring = ring_of(ctx);
    u16 old = ring->g.next_avail_idx;
    u32 count = ctx->num_bufs;

    if (count > BPFHV_MAX_BUFS) return -1;
    for (u32 i = 0; i < count; i++) packed_add(ring, &ctx->bufs[i], 1);
    ctx->oflags = packed_kick(ring, old) ? BPFHV_OFLAG_KICK_NEEDED : 0;
    return 0;
}

BPFHV_INLINE int packed_get(struct bpfhv_ctx *ctx, struct packed_ring *ring) {
    u16 used = ring->g.next_used_idx;
    u16 flags = READ_ONCE(ring->desc[used].flags);
    struct packed_state *state;
    u16 id;

    if (!!(flags & (1 << 7)) != !!(flags & (1 << 15)) || !!(flags & (1 << 7)) != ring->g.used_wrap) return 0;
    id = ring->desc[used].id;
    if (id >= ring->num_desc) return -1;
    state = state_of(ring, id);
    if (!state->busy) return -1;
    ctx->bufs[0].cookie = state->cookie;
    ctx->bufs[0].len = ring->desc[used].len;
    ctx->num_bufs = 1;
    state->busy = 0;
    state->next = ring->g.next_free_id;
    ring->g.next_free_id = id;
    if (++used >= ring->num_desc) {
        used = 0;
        ring->g.used_wrap ^= 1;
    }
    ring->g.next_used_idx = used;
    return 1;
}

BPFHV_PROGRAM("packed_rxc") int do_packed_rxc(struct bpfhv_rx_context *ctx) {
    int ret = packed_get(ctx, ring_of(ctx));

    if (ret <= 0) return ret;
    ret = rx_pkt_alloc(ctx);
    return ret < 0 ? ret : 1;
}

BPFHV_PROGRAM("packed_rxr") int do_packed_rxr(struct bpfhv_rx_context *ctx) {
    struct packed_ring *ring = ring_of(ctx);
    u32 i = 0, n = ring->num_desc;

    for (u16 id = 0; id < n && id < 256 && i < BPFHV_MAX_BUFS; id++) {
        struct packed_state *state = state_of(ring, id);

        if (!state->busy) continue;
        state->busy = 0;
        ctx->bufs[i].cookie = state->cookie;
        i++;
    }
    ctx->num_bufs = i;
    return i != 0;
}

struct gso_desc {
    u64 cookie;
    u64 paddr;
    u16 len;
    u16 flags;
    u16 csum_start;
    u16 csum_offset;
    u16 hdr_len;
    u16 gso_size;
    u16 gso_type;
    u16 reserved;
};

struct gso_ring {
    u32 prod;
    u32 intr_at;
    u8 pad0[120];
    u32 cons;
    u32 kick_enabled;
    u8 pad1[120];
    u32 qmask;
    u8 pad2[124];
    u32 clear;
    u8 pad3[124];
    struct gso_desc desc[];
};

BPFHV_PROGRAM("gso_txp") int do_gso_txp(struct bpfhv_tx_context *ctx) {
    struct gso_ring *ring = (struct gso_ring *)ctx->opaque;
    struct bpfhv_virtio_net_hdr hdr;
    struct gso_desc *desc = 0;
    u32 prod = READ_ONCE(ring->prod);
    u32 qmask = READ_ONCE(ring->qmask);
    u32 count = ctx->num_bufs;

    if (count == 0 || count > BPFHV_MAX_BUFS) return -1;
    for (u32 i = 0; i < count; i++) {
        desc = &ring->desc[prod++ & qmask];
        desc->cookie = ctx->bufs[i].cookie;
        desc->paddr = ctx->bufs[i].paddr;
        desc->len = ctx->bufs[i].len;
        desc->flags = 0;
    }
    if (pkt_virtio_net_md_get(ctx, &hdr)) {
        desc->csum_start = hdr.csum_start;
        desc->csum_offset = hdr.csum_offset;
        desc->flags = 2;
    }
    desc->hdr_len = hdr.hdr_len;
    desc->gso_size = hdr.gso_size;
    desc->gso_type = hdr.gso_type;
    desc->flags |= 1;
    BPFHV_PUBLISH(ring->prod, prod);
    smp_mb_full();
    ctx->oflags = READ_ONCE(ring->kick_enabled) ? BPFHV_OFLAG_KICK_NEEDED : 0;
    return 0;
}

BPFHV_PROGRAM("gso_rxc") int do_gso_rxc(struct bpfhv_rx_context *ctx) {
    struct gso_ring *ring = (struct gso_ring *)ctx->opaque;
    struct bpfhv_virtio_net_hdr hdr = {0};
    u32 clear = READ_ONCE(ring->clear);
    u32 cons = BPFHV_OBSERVE(ring->cons);
    u32 qmask = READ_ONCE(ring->qmask);
    u32 i = 0;
    int ret;

    if (clear == cons) return 0;
    for (;;) {
        const struct gso_desc *desc = &ring->desc[clear & qmask];
        u16 flags = desc->flags;

        ctx->bufs[i].cookie = desc->cookie;
        ctx->bufs[i].paddr = desc->paddr;
        ctx->bufs[i].len = desc->len;
        i++;
        clear++;
        if (flags & 1) {
            hdr.flags = (flags & 2) ? 1 : 0;
            hdr.csum_start = desc->csum_start;
            hdr.csum_offset = desc->csum_offset;
            hdr.hdr_len = desc->hdr_len;
            hdr.gso_size = desc->gso_size;
            hdr.gso_type = desc->gso_type;
            break;
        }
        if (i >= BPFHV_MAX_BUFS || clear == cons) return -1;
    }
    ctx->num_bufs = i;
    WRITE_ONCE(ring->clear, clear);
    ret = rx_pkt_alloc(ctx);
    if (ret < 0) return ret;
    pkt_virtio_net_md_set(ctx, &hdr);
    return 1;
}

BPFHV_PROGRAM("bounce_txh") int do_bounce_txh(struct bpfhv_tx_context *ctx) {
    u32 count = ctx->num_bufs;

    for (u32 i = 0; i < BPFHV_MAX_BUFS; i++) {
        u64 paddr;

        if (i >= count) break;
        if (tx_buf_dma_map(ctx, (void *)ctx->bufs[i].vaddr, ctx->bufs[i].len, &paddr)) return -1;
        ctx->bufs[i].paddr = paddr;
    }
    return 0;
}

BPFHV_PROGRAM("print_txh") int do_print_txh(struct bpfhv_tx_context *ctx) {
    char text[] = {'b', 'u', 'f', 's', 0};

    print_num(text, ctx->num_bufs);
    return 0;
}

/* A function that is not inlined, in the same section. */
static __attribute__((noinline, section("sum_rxh"))) u64 sum(const struct bpfhv_buf *bufs, u32 count) {
    u64 total = 0;

    for (u32 i = 0; i < 64; i++) {
        if (i >= count) break;
        total += *(volatile u32 *)&bufs[i].len;
    }
    return total;
}

BPFHV_PROGRAM("sum_rxh") int do_sum_rxh(struct bpfhv_rx_context *ctx) { return sum(ctx->bufs, ctx->num_bufs) > 65536; }

BPFHV_PROGRAM("bubble_rxh") int do_bubble_rxh(struct bpfhv_rx_context *ctx) {
    volatile u32 lens[8];

    for (int i = 0; i < 8; i++) lens[i] = ctx->bufs[i].len;
    for (int i = 0; i < 7; i++) {
        for (int j = 0; j < 7; j++) {
            u32 a = lens[j], b = lens[j + 1];

            if (a > b) {
                lens[j] = b;
                lens[j + 1] = a;
            }
        }
    }
    return lens[0] < lens[7];
}
