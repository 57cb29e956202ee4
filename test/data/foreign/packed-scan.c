/*
 * vring_packed with 16-bit fields throughout. The driver's states are found by char arithmetic from an offset that the device has written; reclaim looks
 * through all of them for what is out, however many there are.
 */
typedef unsigned char uint8;
typedef unsigned short uint16;
typedef unsigned int uint32;
typedef unsigned long uint64;

#define SECTION(n) __attribute__((section(n), used))
#define VOL volatile

struct buf { uint64 cookie, paddr, vaddr; uint32 len, zero; };
struct context {
    uint64 priv, packet;
    uint32 num_bufs, iflags, oflags, wanted, nsecs, zero[3];
    struct buf bufs[64];
    char opaque[];
};

struct event { VOL uint16 off_wrap; VOL uint16 flags; };
struct desc { VOL uint64 addr; VOL uint32 len; VOL uint16 id; VOL uint16 flags; };
struct state { uint64 cookie; uint16 busy; uint16 num; uint16 next; uint16 last; };

struct vq {
    uint16 free_id, avail_idx, used_idx;
    uint8 avail_wrap, used_wrap;
    uint16 avail_used;
    uint8 pad0[54];
    uint8 host[64];
    uint64 state_ofs;
    VOL uint32 num_desc;
    uint8 pad1[52];
    struct event driver;
    uint8 pad2[60];
    struct event device;
    uint8 pad3[60];
    struct desc desc[];
};

#define VQ(ctx) ((struct vq *)(ctx)->opaque)
#define STATE(ctx, id) ((struct state *)((char *)(ctx)->opaque + VQ(ctx)->state_ofs + (id) * 16))
#define AVAIL (1 << 7)
#define USED (1 << 15)

static int (*const alloc)(struct context *) = (int (*)(struct context *))0x4b8f0000;
static int (*const full_mb)(void) = (int (*)(void))0x4b8f0009;

static inline void add(struct context *ctx, const struct buf *b, uint16 extra) {
    struct vq *vq = VQ(ctx);
    uint16 id = vq->free_id;
    struct state *s = STATE(ctx, id);
    struct desc *d = vq->desc + vq->avail_idx;

    s->cookie = b->cookie;
    s->busy = 1;
    s->num = 1;
    s->last = id;
    d->addr = b->paddr;
    d->len = b->len;
    d->id = id;
    d->flags = vq->avail_used | extra;
    vq->free_id = s->next;
    if (++vq->avail_idx >= vq->num_desc) {
        vq->avail_idx = 0;
        vq->avail_wrap ^= 1;
        vq->avail_used ^= AVAIL | USED;
    }
}

static inline int wants_kick(struct vq *vq, uint16 old, uint16 now) {
    uint16 flags, off_wrap, event;

    full_mb();
    off_wrap = vq->device.off_wrap;
    flags = vq->device.flags;
    if (flags == 0) return 1;
    if (flags == 1) return 0;
    event = off_wrap & 0x7fff;
    if (off_wrap >> 15 != vq->avail_wrap) event -= vq->num_desc;
    return (uint16)(now - event - 1) < (uint16)(now - old);
}

static inline int publish(struct context *ctx, uint16 extra) {
    struct vq *vq = VQ(ctx);
    uint32 i;

    for (i = 0; i < ctx->num_bufs; i++) add(ctx, ctx->bufs + i, extra);
    ctx->oflags = wants_kick(vq, vq->avail_idx - (uint16)i, vq->avail_idx);
    return 0;
}

static inline int get(struct context *ctx) {
    struct vq *vq = VQ(ctx);
    struct desc *d = &vq->desc[vq->used_idx];
    uint16 flags = d->flags;
    struct state *s;

    if (!(flags & AVAIL) != !(flags & USED) || !!(flags & USED) != vq->used_wrap) return 0;
    if (d->id >= vq->num_desc) return -1;
    s = STATE(ctx, d->id);
    if (s->busy != 1) return -1;
    ctx->bufs[0].cookie = s->cookie;
    ctx->bufs[0].paddr = d->addr;
    ctx->bufs[0].vaddr = 0;
    ctx->bufs[0].len = d->len;
    ctx->num_bufs = 1;
    s->busy = 0;
    s->next = vq->free_id;
    vq->free_id = d->id;
    if (++vq->used_idx >= vq->num_desc) {
        vq->used_idx = 0;
        vq->used_wrap ^= 1;
    }
    return 1;
}

/* What is left is what is busy; each that is taken moves the used side on by one, so that both sides meet in the end. */
static inline int reclaim(struct context *ctx, uint32 most) {
    struct vq *vq = VQ(ctx);
    uint32 found = 0;
    uint16 id;

    for (id = 0; id < vq->num_desc && found < most; id++) {
        struct state *s = STATE(ctx, id);

        if (!s->busy) continue;
        ctx->bufs[found].cookie = s->cookie;
        ctx->bufs[found].paddr = 0;
        ctx->bufs[found].vaddr = 0;
        ctx->bufs[found].len = 0;
        found++;
        s->busy = 0;
        s->next = vq->free_id;
        vq->free_id = id;
        if (++vq->used_idx >= vq->num_desc) {
            vq->used_idx = 0;
            vq->used_wrap ^= 1;
        }
    }
    ctx->num_bufs = found;
    return found > 0;
}

static inline int arm(struct context *ctx) {
    struct vq *vq = VQ(ctx);
    uint32 wanted = ctx->wanted, at, wrap, flags;

    if (wanted == 0) {
        vq->driver.flags = 1;
        return 0;
    }
    if (wanted > vq->num_desc) wanted = vq->num_desc;
    at = vq->used_idx + wanted - 1;
    wrap = vq->used_wrap;
    if (at >= vq->num_desc) {
        at -= vq->num_desc;
        wrap ^= 1;
    }
    vq->driver.flags = 1;
    vq->driver.off_wrap = at | wrap << 15;
    vq->driver.flags = 2;
    full_mb();
    flags = vq->desc[at].flags;
    return !!(flags & AVAIL) == wrap && !!(flags & USED) == wrap;
}

SECTION("rxp") int vp_rxp(struct context *ctx) { return publish(ctx, 2); }
SECTION("txp") int vp_txp(struct context *ctx) { return publish(ctx, 0); }
SECTION("txc") int vp_txc(struct context *ctx) { return get(ctx); }
SECTION("rxc") int vp_rxc(struct context *ctx) {
    int ret = get(ctx);

    if (ret == 1) ret = alloc(ctx) < 0 ? -12 : 1;
    return ret;
}
SECTION("rxi") int vp_rxi(struct context *ctx) { return arm(ctx); }
SECTION("txi") int vp_txi(struct context *ctx) { return arm(ctx); }
SECTION("rxr") int vp_rxr(struct context *ctx) { return reclaim(ctx, 64); }
SECTION("txr") int vp_txr(struct context *ctx) { return reclaim(ctx, 1); }
SECTION("license") const char gpl[] = "GPL v2";
