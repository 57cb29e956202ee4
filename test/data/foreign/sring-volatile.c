// The guest's side of "sring" queues. Everything that both sides see is a volatile field, and nothing is kept in a local that memory has.
typedef unsigned char __u8;
typedef unsigned int __u32;
typedef unsigned long __u64;

#define SEC(NAME) __attribute__((section(NAME), used))
#define MAX_BUFS 64

struct nic_buf {
    __u64 cookie;
    __u64 paddr;
    __u64 vaddr;
    __u32 len;
    __u32 rsvd;
};

struct nic_ctx {
    __u64 guest_priv;
    volatile __u64 packet;
    volatile __u32 num_bufs;
    volatile __u32 iflags;
    volatile __u32 oflags;
    volatile __u32 min_completed_bufs;
    volatile __u32 min_intr_nsecs;
    __u32 rsvd[3];
    volatile struct nic_buf bufs[MAX_BUFS];
    __u8 opaque[0];
};

struct slot {
    __u64 cookie;
    __u64 paddr;
    __u32 len;
    __u32 pad;
};

struct sring {
    __u32 prod, intr;
    __u8 pad0[120];
    __u32 cons, kick_enabled;
    __u8 pad1[120];
    __u32 qmask;
    __u8 pad2[124];
    __u32 clear;
    __u8 pad3[124];
    struct slot slots[0];
};

#define rx_pkt_alloc ((int (*)(struct nic_ctx *))0x4b8f0000)
#define smp_mb_full ((int (*)(void))0x4b8f0009)

static inline volatile struct sring *ring(struct nic_ctx *ctx) { return (volatile struct sring *)ctx->opaque; }

static inline int publish(struct nic_ctx *ctx) {
    volatile struct sring *r = ring(ctx);

    for (__u32 i = 0; i < ctx->num_bufs; i++) {
        volatile struct slot *s = &r->slots[r->prod & r->qmask];

        s->cookie = ctx->bufs[i].cookie;
        s->paddr = ctx->bufs[i].paddr;
        s->len = ctx->bufs[i].len;
        r->prod++;
    }
    smp_mb_full();
    ctx->oflags = r->kick_enabled ? 1 : 0;
    return 0;
}

static inline void fetch(struct nic_ctx *ctx) {
    volatile struct sring *r = ring(ctx);
    volatile struct slot *s = &r->slots[r->clear & r->qmask];
    volatile struct nic_buf *b = &ctx->bufs[ctx->num_bufs];

    b->cookie = s->cookie;
    b->paddr = s->paddr;
    b->vaddr = 0;
    b->len = s->len;
    ctx->num_bufs++;
    r->clear++;
}

static inline int complete(struct nic_ctx *ctx) {
    ctx->num_bufs = 0;
    if (ring(ctx)->clear == ring(ctx)->cons) return 0;
    fetch(ctx);
    return 1;
}

static inline int reclaim(struct nic_ctx *ctx, __u32 most) {
    volatile struct sring *r = ring(ctx);

    ctx->num_bufs = 0;
    for (__u32 i = 0; r->clear != r->prod && i < most; i++) {
        if (r->cons == r->clear) r->cons++;
        fetch(ctx);
    }
    return ctx->num_bufs > 0;
}

static inline int enough(struct nic_ctx *ctx) {
    smp_mb_full();
    return ring(ctx)->cons - ring(ctx)->clear >= ctx->min_completed_bufs;
}

SEC("rxp") int do_rxp(struct nic_ctx *ctx) { return publish(ctx); }

SEC("rxc") int do_rxc(struct nic_ctx *ctx) {
    if (!complete(ctx)) return 0;
    return rx_pkt_alloc(ctx) < 0 ? -1 : 1;
}

SEC("rxi") int do_rxi(struct nic_ctx *ctx) {
    ring(ctx)->intr = ctx->min_completed_bufs > 0;
    return enough(ctx);
}

SEC("rxr") int do_rxr(struct nic_ctx *ctx) { return reclaim(ctx, MAX_BUFS); }

SEC("txp") int do_txp(struct nic_ctx *ctx) { return publish(ctx); }

SEC("txc") int do_txc(struct nic_ctx *ctx) { return complete(ctx); }

SEC("txi") int do_txi(struct nic_ctx *ctx) {
    if (ctx->min_completed_bufs == 0) return 0;
    ring(ctx)->intr = ring(ctx)->clear + ctx->min_completed_bufs - 1;
    return enough(ctx);
}

SEC("txr") int do_txr(struct nic_ctx *ctx) { return reclaim(ctx, 1); }

SEC("license") char _license[] = "GPL";
