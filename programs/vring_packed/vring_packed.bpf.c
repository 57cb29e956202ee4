/*
 * vring_packed.bpf.c - the guest's programs of the vring_packed device type. vring_packed.h has the picture of the ring.
 *
 * A round trip of a buffer: publish takes an id off the free list, remembers the cookie under it and makes the next
 * descriptor available; the device works through them and marks them used, in order; complete takes the descriptor at
 * next_used back and puts its id on the free list. The programs do not check for room: the driver counts what is in flight.
 */
#include "vring_packed.h"

BPFHV_INLINE struct vring_packed *ring_of(struct bpfhv_ctx *ctx) { return (struct vring_packed *)ctx->opaque; }

BPFHV_INLINE struct vring_packed_state *states_of(struct vring_packed *ring) {
    return (struct vring_packed_state *)((u8 *)ring + READ_ONCE(ring->state_ofs));
}

/* Whether an event asks to be told about the `count` descriptors that end before the index `end` of the lap `wrap`. */
BPFHV_INLINE int wants_to_know(union vring_packed_event event, u32 end, u32 wrap, u32 count, u32 num) {
    if (event.flags != EVENT_DESC) return event.flags == EVENT_ENABLE;

    u32 at = event.off_wrap & 0x7fff;
    /* An event of the other lap lies as far before this one as the ring is long. */
    if (event.off_wrap >> 15 != wrap) at -= num;
    return ((end - at - 1) & 0xffff) < count;
}

/*
 * Makes bufs[0..num_bufs) available, and says whether the device wants to be told. Whoever is going to sleep stores its
 * event and then looks at the flags of the next descriptor; here it is the other way round: one of the two sees the other.
 */
BPFHV_INLINE int publish(struct bpfhv_ctx *ctx, u32 num_bufs, u32 direction) {
    struct vring_packed *ring = ring_of(ctx);
    struct vring_packed_state *states = states_of(ring);
    u32 num = READ_ONCE(ring->num_desc);
    u32 index = READ_ONCE(ring->next_avail_idx);
    u32 turn = READ_ONCE(ring->avail_used_flags);
    u32 id = READ_ONCE(ring->next_free_id);

    for (u32 i = 0; i < num_bufs; i++) {
        const struct bpfhv_buf *buf = &ctx->bufs[i];
        struct vring_packed_desc *desc = &ring->desc[index];
        struct vring_packed_state *state = &states[id];
        u64 next = READ_ONCE(state->word) >> 32 & 0xffff;

        WRITE_ONCE(state->cookie, buf->cookie);
        WRITE_ONCE(state->word, 1 | 1ul << 16 | next << 32 | (u64)id << 48);
        WRITE_ONCE(desc->addr, buf->paddr);
        BPFHV_PUBLISH(desc->word, buf->len | (u64)id << 32 | (u64)(turn | direction) << 48);
        id = next;
        if (++index >= num) {
            index = 0;
            turn ^= DESC_TURN;
        }
    }
    u32 wrap = (turn & DESC_AVAIL) != 0;
    WRITE_ONCE(ring->next_free_id, id);
    WRITE_ONCE(ring->next_avail_idx, index);
    WRITE_ONCE(ring->avail_wrap, wrap);
    WRITE_ONCE(ring->avail_used_flags, turn);

    smp_mb_full();
    union vring_packed_event event = {.word = READ_ONCE(ring->device_event.word)};
    ctx->oflags = wants_to_know(event, index, wrap, num_bufs, num) ? BPFHV_OFLAG_KICK_NEEDED : 0;
    return 0;
}

/* A device that is done with a descriptor makes both bits equal to the wrap counter of the lap. */
BPFHV_INLINE int is_used(u32 flags, u32 wrap) { return (flags & DESC_TURN) == (wrap ? DESC_TURN : 0); }

/* The used side of the ring, as the program found it and as it goes on from there. */
struct used_side {
    struct vring_packed_state *states;
    u32 num;
    u32 index;
    u32 wrap;
    u32 free_id;
};

BPFHV_INLINE struct used_side used_side_of(struct vring_packed *ring) {
    struct used_side used = {
        .states = states_of(ring),
        .num = READ_ONCE(ring->num_desc),
        .index = READ_ONCE(ring->next_used_idx),
        .wrap = READ_ONCE(ring->used_wrap),
        .free_id = READ_ONCE(ring->next_free_id),
    };
    return used;
}

BPFHV_INLINE void store_used_side(struct vring_packed *ring, struct used_side used) {
    WRITE_ONCE(ring->next_free_id, used.free_id);
    WRITE_ONCE(ring->next_used_idx, used.index);
    WRITE_ONCE(ring->used_wrap, used.wrap);
}

/*
 * Copies the descriptor at next_used, whose second half is `word`, into bufs[slot] and moves on. 0, or < 0: its id is of no
 * descriptor that is out.
 */
BPFHV_INLINE int take(struct bpfhv_ctx *ctx, u32 slot, u64 word, struct used_side *used) {
    struct bpfhv_buf *buf = &ctx->bufs[slot];
    u32 id = word >> 32 & 0xffff;
    struct vring_packed_state *state = &used->states[id];

    if (id >= used->num || (READ_ONCE(state->word) & 0xffff) == 0) return -BPFHV_EINVAL;
    buf->cookie = READ_ONCE(state->cookie);
    buf->paddr = READ_ONCE(ring_of(ctx)->desc[used->index].addr);
    buf->vaddr = 0;
    buf->len = word;
    buf->reserved = 0;

    WRITE_ONCE(state->word, (u64)used->free_id << 32);
    used->free_id = id;
    if (++used->index >= used->num) {
        used->index = 0;
        used->wrap ^= 1;
    }
    return 0;
}

/* Takes back one used descriptor as bufs[0]. 1, 0 when there is none, < 0 when its id makes no sense. */
BPFHV_INLINE int complete(struct bpfhv_ctx *ctx) {
    struct vring_packed *ring = ring_of(ctx);
    struct used_side used = used_side_of(ring);
    u64 word = BPFHV_OBSERVE(ring->desc[used.index].word);

    if (!is_used(word >> 48, used.wrap)) return 0;
    int failed = take(ctx, 0, word, &used);
    if (failed) return failed;
    store_used_side(ring, used);
    ctx->num_bufs = 1;
    return 1;
}

/*
 * With `wanted` buffers wanted, the device is to interrupt when it passes the last of them. 1 if it has already, so that
 * the interrupt may never come. More than the ring holds can not be completed: all of it is meant then.
 *
 *   next_used            next_used + wanted - 1
 *     [ 1 ][ 2 ] ... [ wanted ][ ... ]
 */
BPFHV_INLINE int interrupt_after(struct bpfhv_ctx *ctx, u32 wanted) {
    struct vring_packed *ring = ring_of(ctx);
    u32 num = READ_ONCE(ring->num_desc);
    u32 wrap = READ_ONCE(ring->used_wrap);

    if (wanted == 0) {
        WRITE_ONCE(ring->driver_event.word, EVENT_DISABLE << 16);
        return 0;
    }
    u32 index = READ_ONCE(ring->next_used_idx) + (wanted < num ? wanted : num) - 1;
    if (index >= num) {
        index -= num;
        wrap ^= 1;
    }
    WRITE_ONCE(ring->driver_event.word, index | wrap << 15 | EVENT_DESC << 16);
    smp_mb_full();
    return is_used(READ_ONCE(ring->desc[index].flags), wrap);
}

/*
 * The device is stopped: takes back up to `limit` descriptors that are out, those that it has used first. Called until it
 * returns 0, it leaves next_used == next_avail, an empty ring, and there the device goes on.
 */
BPFHV_INLINE int reclaim(struct bpfhv_ctx *ctx, u32 limit) {
    struct vring_packed *ring = ring_of(ctx);
    struct used_side used = used_side_of(ring);
    u32 posted = READ_ONCE(ring->next_avail_idx) - used.index;
    if (READ_ONCE(ring->avail_wrap) != used.wrap) posted += used.num;
    u32 count = posted < limit ? posted : limit;

    for (u32 i = 0; i < count; i++) {
        int failed = take(ctx, i, READ_ONCE(ring->desc[used.index].word), &used);
        if (failed) return failed;
    }
    store_used_side(ring, used);
    ctx->num_bufs = count;
    return count != 0;
}

BPFHV_PROGRAM("rxp") int vring_packed_rx_publish(struct bpfhv_rx_context *ctx) {
    u32 num_bufs = ctx->num_bufs;

    if (num_bufs > BPFHV_MAX_BUFS) return -BPFHV_EINVAL;
    return publish(ctx, num_bufs, DESC_WRITE);
}

BPFHV_PROGRAM("rxc") int vring_packed_rx_complete(struct bpfhv_rx_context *ctx) {
    int taken = complete(ctx);
    if (taken <= 0) return taken;

    int failed = rx_pkt_alloc(ctx);
    return failed < 0 ? failed : 1;
}

BPFHV_PROGRAM("rxi") int vring_packed_rx_interrupts(struct bpfhv_rx_context *ctx) {
    return interrupt_after(ctx, ctx->min_completed_bufs);
}

BPFHV_PROGRAM("rxr") int vring_packed_rx_reclaim(struct bpfhv_rx_context *ctx) { return reclaim(ctx, BPFHV_MAX_BUFS); }

BPFHV_PROGRAM("txp") int vring_packed_tx_publish(struct bpfhv_tx_context *ctx) {
    if (ctx->num_bufs != 1) return -BPFHV_EINVAL;
    return publish(ctx, 1, 0);
}

BPFHV_PROGRAM("txc") int vring_packed_tx_complete(struct bpfhv_tx_context *ctx) { return complete(ctx); }

BPFHV_PROGRAM("txi") int vring_packed_tx_interrupts(struct bpfhv_tx_context *ctx) {
    return interrupt_after(ctx, ctx->min_completed_bufs);
}

BPFHV_PROGRAM("txr") int vring_packed_tx_reclaim(struct bpfhv_tx_context *ctx) { return reclaim(ctx, 1); }
