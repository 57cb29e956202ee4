// sring_gso with bitfields and with local copies of whole descriptors; the header goes through one on the stack, field by field.
#include <stdbool.h>
#include <stdint.h>

#define LIMIT 64u
#define PACKED __attribute__((packed))

struct PACKED buffer_t { uint64_t cookie, paddr, vaddr; uint32_t len, reserved; };

struct PACKED descriptor_t {
    uint64_t cookie, paddr;
    uint16_t len;
    uint16_t eop : 1, needs_csum : 1, rest : 14;
    uint16_t csum_start, csum_offset, a, b, gso_type, reserved;
};

struct PACKED header_t {
    uint8_t needs_csum : 1, data_valid : 1, rest : 6;
    uint8_t gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset;
};

struct context_t {
    uint64_t guest_priv, packet;
    uint32_t num_bufs, iflags;
    struct { uint32_t kick : 1, resched : 1, rest : 30; } oflags;
    uint32_t min_completed_bufs, min_intr_nsecs, reserved[3];
    struct buffer_t bufs[LIMIT];
};

struct ring_t {
    uint32_t prod, intr;
    uint8_t p0[120];
    uint32_t cons, kick_enabled;
    uint8_t p1[120];
    uint32_t qmask;
    uint8_t p2[124];
    uint32_t clear;
    uint8_t p3[124];
    struct descriptor_t desc[];
};

static int32_t (*const rx_pkt_alloc)(struct context_t *) = (void *)0x4b8f0000;
static int32_t (*const virtio_get)(struct context_t *, struct header_t *) = (void *)0x4b8f0003;
static int32_t (*const virtio_set)(struct context_t *, const struct header_t *) = (void *)0x4b8f0004;
static int32_t (*const full_barrier)(void) = (void *)0x4b8f0009;

#define LOAD(x) (*(volatile typeof(x) *)&(x))
#define STORE(x, v) (*(volatile typeof(x) *)&(x) = (v))

static __attribute__((always_inline)) inline struct ring_t *ring_of(struct context_t *c) { return (struct ring_t *)(c + 1); }

static inline struct descriptor_t describe(const struct buffer_t *buffer) {
    struct descriptor_t d = {.cookie = buffer->cookie, .paddr = buffer->paddr, .len = (uint16_t)buffer->len};
    return d;
}

static inline void restore(struct buffer_t *buffer, const struct descriptor_t *from) {
    struct buffer_t b = {.cookie = from->cookie, .paddr = from->paddr, .len = from->len};
    *buffer = b;
}

static inline void announce(struct context_t *c, uint32_t prod) {
    struct ring_t *r = ring_of(c);

    __asm__ volatile("" ::: "memory");
    STORE(r->prod, prod);
    full_barrier();
    c->oflags.kick = LOAD(r->kick_enabled) != 0;
    c->oflags.resched = 0;
}

__attribute__((section("rxp"), used)) int64_t publish_receive(struct context_t *c) {
    struct ring_t *r = ring_of(c);
    const uint32_t first = LOAD(r->prod), mask = LOAD(r->qmask), n = c->num_bufs;

    for (uint32_t i = 0; i != n; ++i) r->desc[(first + i) & mask] = describe(&c->bufs[i]);
    announce(c, first + n);
    return 0;
}

__attribute__((section("txp"), used)) int64_t publish_transmit(struct context_t *c) {
    struct ring_t *r = ring_of(c);
    const uint32_t first = LOAD(r->prod), mask = LOAD(r->qmask), n = c->num_bufs;
    struct header_t header = {0};

    if (n - 1 >= LIMIT) return -22;
    const bool csum = virtio_get(c, &header) == 1;
    for (uint32_t i = 0; i < n; ++i) {
        struct descriptor_t d = describe(&c->bufs[i]);

        if (i == n - 1) {
            d.eop = 1;
            d.needs_csum = csum;
            d.csum_start = header.csum_start;
            d.csum_offset = header.csum_offset;
            d.a = header.hdr_len;
            d.b = header.gso_size;
            d.gso_type = header.gso_type;
        }
        r->desc[(first + i) & mask] = d;
    }
    announce(c, first + n);
    return 0;
}

static inline int64_t next_packet(struct context_t *c, uint32_t end, struct descriptor_t *last) {
    struct ring_t *r = ring_of(c);
    const uint32_t start = LOAD(r->clear), mask = LOAD(r->qmask);
    uint32_t n = 0;

    __asm__ volatile("" ::: "memory");
    for (bool over = false; !over; ++n) {
        if (start + n == end) return n == 0 ? 0 : -22;
        if (n >= LIMIT) return -22;
        *last = r->desc[(start + n) & mask];
        restore(&c->bufs[n], last);
        over = last->eop;
    }
    c->num_bufs = n;
    STORE(r->clear, start + n);
    return 1;
}

__attribute__((section("rxc"), used)) int64_t complete_receive(struct context_t *c) {
    struct descriptor_t last;
    int64_t result = next_packet(c, LOAD(ring_of(c)->cons), &last);

    if (result <= 0) return result;
    struct header_t header = {
        .needs_csum = last.needs_csum,
        .gso_type = (uint8_t)last.gso_type,
        .gso_size = last.a,
        .hdr_len = last.b,
        .csum_start = last.csum_start,
        .csum_offset = last.csum_offset,
    };
    const int32_t failed = rx_pkt_alloc(c);
    if (failed < 0) return failed;
    if (header.needs_csum || header.gso_type) virtio_set(c, &header);
    return 1;
}

__attribute__((section("txc"), used)) int64_t complete_transmit(struct context_t *c) {
    struct descriptor_t last;
    return next_packet(c, LOAD(ring_of(c)->cons), &last);
}

__attribute__((section("txr"), used)) int64_t reclaim_transmit(struct context_t *c) {
    struct ring_t *r = ring_of(c);
    struct descriptor_t last;
    const uint32_t before = LOAD(r->clear), completed = LOAD(r->cons) - before;
    const int64_t result = next_packet(c, LOAD(r->prod), &last);

    if (result > 0 && LOAD(r->clear) - before > completed) STORE(r->cons, LOAD(r->clear));
    return result;
}

__attribute__((section("rxr"), used)) int64_t reclaim_receive(struct context_t *c) {
    struct ring_t *r = ring_of(c);
    const uint32_t start = LOAD(r->clear), mask = LOAD(r->qmask), completed = LOAD(r->cons) - start;
    uint32_t left = LOAD(r->prod) - start;

    if (left > LIMIT) left = LIMIT;
    c->num_bufs = left;
    while (left-- > 0) restore(&c->bufs[left], &r->desc[(start + left) & mask]);
    STORE(r->clear, start + c->num_bufs);
    if (completed < c->num_bufs) STORE(r->cons, start + c->num_bufs);
    return c->num_bufs != 0;
}

__attribute__((section("rxi"), used)) int64_t arm_receive(struct context_t *c) {
    struct ring_t *r = ring_of(c);

    STORE(r->intr, c->min_completed_bufs ? 1 : 0);
    full_barrier();
    return LOAD(r->cons) - LOAD(r->clear) >= c->min_completed_bufs;
}

__attribute__((section("txi"), used)) int64_t arm_transmit(struct context_t *c) {
    struct ring_t *r = ring_of(c);
    const uint32_t wanted = c->min_completed_bufs, clear = LOAD(r->clear);

    if (wanted == 0) return 0;
    STORE(r->intr, clear + wanted - 1);
    full_barrier();
    return LOAD(r->cons) - clear >= wanted;
}
