/*
 * Scatter-gather rings ("sring_gso"): descriptors as arrays of 16-bit halves, packets of any number of fragments, and loops that go on
 * until the ring says that it is over, not until some constant.
 */
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct frag { u64 cookie, paddr, vaddr; u32 len, unused; };
struct hdr { unsigned char flags, type; u16 hdr_len, gso_size, csum_start, csum_offset; };

struct ctx {
    u64 priv, packet;
    u32 num_bufs, iflags, oflags, wanted, nsecs, res[3];
    struct frag bufs[64];
    struct { volatile u32 prod, intr; u32 pad[30]; } guest;
    struct { volatile u32 cons, kick; u32 pad[30]; } device;
    struct { volatile u32 qmask; u32 pad[31]; } fixed;
    struct { volatile u32 clear; u32 pad[31]; } own;
    struct desc {
        u64 cookie, paddr;
        u16 h[8]; /* len, flags, csum start, csum offset, then tx: header, size, type; rx: size, header, type */
    } desc[];
};

#define EOP 1
#define CSUM 2

#define __helper(n, ret, ...) ((ret (*)(__VA_ARGS__))(0x4b8f0000UL + (n)))
#define alloc(c) __helper(0, int, struct ctx *)(c)
#define get_hdr(c, h) __helper(3, int, struct ctx *, struct hdr *)(c, h)
#define set_hdr(c, h) __helper(4, int, struct ctx *, const struct hdr *)(c, h)
#define mb() __helper(9, int, void)()
#define __prog(name) __attribute__((section(name), used)) int

static inline struct desc *at(struct ctx *ctx, u32 i) { return ctx->desc + (i & ctx->fixed.qmask); }

static inline void kick(struct ctx *ctx) {
    mb();
    ctx->oflags = ctx->device.kick ? 1 : 0;
}

static inline void clear_halves(struct desc *d) {
    for (int i = 1; i < 8; i++) d->h[i] = 0;
}

__prog("rxp") gso_rxp(struct ctx *ctx) {
    u32 prod = ctx->guest.prod;

    for (u32 i = 0; i < *(volatile u32 *)&ctx->num_bufs; i++, prod++) {
        struct desc *d = at(ctx, prod);

        d->cookie = ctx->bufs[i].cookie;
        d->paddr = ctx->bufs[i].paddr;
        d->h[0] = ctx->bufs[i].len;
        clear_halves(d);
    }
    ctx->guest.prod = prod;
    kick(ctx);
    return 0;
}

__prog("txp") gso_txp(struct ctx *ctx) {
    u32 prod = ctx->guest.prod, i = 0;
    struct desc *d;
    struct hdr hdr = {};
    int csum;

    if (ctx->num_bufs > 64) return -22;
    for (; i < ctx->num_bufs; i++) { /* at least once: the driver has a packet */
        d = at(ctx, prod++);
        d->cookie = ctx->bufs[i].cookie;
        d->paddr = ctx->bufs[i].paddr;
        d->h[0] = ctx->bufs[i].len;
        clear_halves(d);
    }

    csum = get_hdr(ctx, &hdr);
    d->h[1] = EOP;
    if (csum > 0) d->h[1] |= CSUM;
    d->h[2] = hdr.csum_start;
    d->h[3] = hdr.csum_offset;
    d->h[4] = hdr.hdr_len;
    d->h[5] = hdr.gso_size;
    d->h[6] = hdr.type;
    ctx->guest.prod = prod;
    kick(ctx);
    return 0;
}

/* The fragments of the next packet, up to `end`. The descriptor that ends it, or nothing. */
static inline struct desc *gather(struct ctx *ctx, u32 end) {
    u32 clear = ctx->own.clear, n = 0;

    while (clear != end) {
        struct desc *d = at(ctx, clear++);

        ctx->bufs[n].cookie = d->cookie;
        ctx->bufs[n].paddr = d->paddr;
        ctx->bufs[n].vaddr = 0;
        ctx->bufs[n].len = d->h[0];
        n++;
        if (d->h[1] & EOP) {
            ctx->num_bufs = n;
            ctx->own.clear = clear;
            return d;
        }
    }
    return 0;
}

__prog("rxc") gso_rxc(struct ctx *ctx) {
    struct desc *last = gather(ctx, ctx->device.cons);
    struct hdr hdr;
    int ret;

    if (!last) return 0;
    hdr.flags = last->h[1] & CSUM ? 1 : 0;
    hdr.csum_start = last->h[2];
    hdr.csum_offset = last->h[3];
    hdr.gso_size = last->h[4];
    hdr.hdr_len = last->h[5];
    hdr.type = last->h[6];
    if ((ret = alloc(ctx)) != 0) return ret;
    set_hdr(ctx, &hdr);
    return 1;
}

__prog("txc") gso_txc(struct ctx *ctx) { return gather(ctx, ctx->device.cons) ? 1 : 0; }

static inline void moved(struct ctx *ctx) {
    if ((int)(ctx->own.clear - ctx->device.cons) > 0) ctx->device.cons = ctx->own.clear;
}

__prog("txr") gso_txr(struct ctx *ctx) {
    if (!gather(ctx, ctx->guest.prod)) return 0;
    moved(ctx);
    return 1;
}

__prog("rxr") gso_rxr(struct ctx *ctx) {
    u32 n;

    for (n = 0; n < 64 && ctx->own.clear != ctx->guest.prod; n++) {
        struct desc *d = at(ctx, ctx->own.clear);

        ctx->bufs[n].cookie = d->cookie;
        ctx->bufs[n].paddr = d->paddr;
        ctx->bufs[n].vaddr = 0;
        ctx->bufs[n].len = d->h[0];
        ctx->own.clear++;
    }
    ctx->num_bufs = n;
    moved(ctx);
    return !!n;
}

__prog("rxi") gso_rxi(struct ctx *ctx) {
    ctx->guest.intr = !!ctx->wanted;
    mb();
    return ctx->device.cons - ctx->own.clear >= ctx->wanted;
}

__prog("txi") gso_txi(struct ctx *ctx) {
    if (ctx->wanted) {
        ctx->guest.intr = ctx->own.clear + ctx->wanted - 1;
        mb();
        return ctx->device.cons - ctx->own.clear >= ctx->wanted;
    }
    return 0;
}

char _license[] __attribute__((section("license"), used)) = "Dual BSD/GPL";
