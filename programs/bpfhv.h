/*
 * bpfhv.h - what the author of a ring format needs to write its eBPF programs.
 *
 * A guest driver owns one context per queue, in its own memory. It fills the head of the context, runs a program on it,
 * and reads the results from the same head. Only the programs know what the opaque part behind it looks like:
 *
 *   0           48                      2096                    context size
 *   +-----------+------------------------+----------------------------+
 *   |   head    |  bufs[64], 32 B each   |  opaque: the ring itself   |
 *   +-----------+------------------------+----------------------------+
 *     driver <-> program                   program <-> device
 *
 * The layouts, section names and helper ids are version 1 of the bpfhv ABI and never change. All integers are
 * little-endian. The header needs no other header, so that any clang compiles it: clang -target bpf -O2.
 */
#ifndef BPFHV_H
#define BPFHV_H

typedef __UINT8_TYPE__ u8;
typedef __UINT16_TYPE__ u16;
typedef __UINT32_TYPE__ u32;
typedef __UINT64_TYPE__ u64;
typedef __INT64_TYPE__ s64;

#define BPFHV_MAX_BUFS 64 /* entries of bufs[], either direction */

/* Bits of iflags (the driver sets them) and of oflags (a program sets them). */
#define BPFHV_IFLAG_INTR_NEEDED 1u
#define BPFHV_OFLAG_KICK_NEEDED 1u
#define BPFHV_OFLAG_RESCHED_NEEDED 2u

/* Negative results of a program. */
#define BPFHV_EINVAL 22

struct bpfhv_buf {
    u64 cookie; /* the driver's name for the buffer; comes back unchanged */
    u64 paddr;  /* guest-physical address */
    u64 vaddr;  /* guest-virtual address, 0 where the program does not know it */
    u32 len;    /* bytes: room when published, bytes in use when completed */
    u32 reserved;
};

struct bpfhv_ctx {
    u64 guest_priv;         /* the driver's; opaque to program and device */
    u64 packet;             /* the OS packet: driver -> txp, rx_pkt_alloc -> driver */
    u32 num_bufs;           /* valid entries of bufs[] */
    u32 iflags;             /* BPFHV_IFLAG_* */
    u32 oflags;             /* BPFHV_OFLAG_*; publish programs set it, as a whole */
    u32 min_completed_bufs; /* argument of rxi and txi; 0 = interrupts off */
    u32 min_intr_nsecs;     /* interrupt moderation hint */
    u32 reserved[3];
    struct bpfhv_buf bufs[BPFHV_MAX_BUFS];
    u8 opaque[];
};

/* A transmit context and a receive context have the same head; the names say which one a program is for. */
#define bpfhv_tx_context bpfhv_ctx
#define bpfhv_rx_context bpfhv_ctx

struct bpfhv_virtio_net_hdr {
    u8 flags;    /* 1 needs_csum, 2 data_valid */
    u8 gso_type; /* 0 none, 1 tcpv4, 3 udp, 4 tcpv6, 0x80 ecn */
    u16 hdr_len;
    u16 gso_size;
    u16 csum_start;
    u16 csum_offset;
};

#define BPFHV_ASSERT_OFFSET(type, field, offset) \
    _Static_assert(__builtin_offsetof(type, field) == (offset), #type "." #field " is not at " #offset)
#define BPFHV_ASSERT_SIZE(type, size) _Static_assert(sizeof(type) == (size), #type " is not " #size " bytes")

BPFHV_ASSERT_OFFSET(struct bpfhv_buf, cookie, 0);
BPFHV_ASSERT_OFFSET(struct bpfhv_buf, paddr, 8);
BPFHV_ASSERT_OFFSET(struct bpfhv_buf, vaddr, 16);
BPFHV_ASSERT_OFFSET(struct bpfhv_buf, len, 24);
BPFHV_ASSERT_SIZE(struct bpfhv_buf, 32);
BPFHV_ASSERT_OFFSET(struct bpfhv_ctx, guest_priv, 0);
BPFHV_ASSERT_OFFSET(struct bpfhv_ctx, packet, 8);
BPFHV_ASSERT_OFFSET(struct bpfhv_ctx, num_bufs, 16);
BPFHV_ASSERT_OFFSET(struct bpfhv_ctx, iflags, 20);
BPFHV_ASSERT_OFFSET(struct bpfhv_ctx, oflags, 24);
BPFHV_ASSERT_OFFSET(struct bpfhv_ctx, min_completed_bufs, 28);
BPFHV_ASSERT_OFFSET(struct bpfhv_ctx, min_intr_nsecs, 32);
BPFHV_ASSERT_OFFSET(struct bpfhv_ctx, bufs, 48);
BPFHV_ASSERT_OFFSET(struct bpfhv_ctx, opaque, 2096);
BPFHV_ASSERT_SIZE(struct bpfhv_virtio_net_hdr, 10);

/*
 * One section per program; the section's name is what a VMM selects by.
 *
 *   BPFHV_PROGRAM("rxp") int rx_publish(struct bpfhv_rx_context *ctx) { ... }
 */
#define BPFHV_PROGRAM(name) __attribute__((__section__(name), used))

/* Everything a program calls must be part of it: there are no calls between sections. */
#define BPFHV_INLINE static inline __attribute__((always_inline))

/*
 * Shared fields. The device may write them at any time, so read each one once, into a local, and use the local.
 * A store of an index must come after the stores of what it publishes: BPFHV_PUBLISH keeps the compiler from moving it up,
 * BPFHV_OBSERVE keeps it from moving later loads above the load of the index. Neither emits an instruction: processors
 * with total store order need none, and whoever runs the programs elsewhere has to give them that order.
 * A store that must be visible before a later *load* needs smp_mb_full().
 */
#define BPFHV_COMPILER_BARRIER() __asm__ volatile("" ::: "memory")
#define READ_ONCE(field) (*(const volatile __typeof__(field) *)&(field))
#define WRITE_ONCE(field, value) (*(volatile __typeof__(field) *)&(field) = (value))

#define BPFHV_PUBLISH(field, value)   \
    do {                              \
        BPFHV_COMPILER_BARRIER();     \
        WRITE_ONCE(field, value);     \
    } while (0)

#define BPFHV_OBSERVE(field)                            \
    ({                                                  \
        __typeof__(field) observed_ = READ_ONCE(field); \
        BPFHV_COMPILER_BARRIER();                       \
        observed_;                                      \
    })

/*
 * Helpers: functions of the guest driver, called by number. The compiler turns a call through a constant address into a
 * call instruction with that number as its immediate, so no relocation is needed.
 */
#define BPFHV_HELPER_BASE 0x4b8f0000
#define BPFHV_HELPER(result, name, number, ...) \
    static result (*const name)(__VA_ARGS__) = (result(*)(__VA_ARGS__))(BPFHV_HELPER_BASE + (number))

/* Makes ctx->packet of bufs[0..num_bufs). 0, or a negative errno; the buffers are the driver's again in either case. */
BPFHV_HELPER(int, rx_pkt_alloc, 0, struct bpfhv_rx_context *ctx);
/* Where the checksum of ctx->packet goes. 1 if one is to be computed, else 0. */
BPFHV_HELPER(int, pkt_l4_csum_md_get, 1, struct bpfhv_tx_context *ctx, u16 *csum_start, u16 *csum_offset);
BPFHV_HELPER(int, pkt_l4_csum_md_set, 2, struct bpfhv_rx_context *ctx, u16 csum_start, u16 csum_offset);
/* The offload request of ctx->packet as a virtio-net header. 1 if a checksum is to be computed, else 0. */
BPFHV_HELPER(int, pkt_virtio_net_md_get, 3, struct bpfhv_tx_context *ctx, struct bpfhv_virtio_net_hdr *hdr);
BPFHV_HELPER(int, pkt_virtio_net_md_set, 4, struct bpfhv_rx_context *ctx, const struct bpfhv_virtio_net_hdr *hdr);
/* Bounce buffers: 0 or a negative errno. */
BPFHV_HELPER(int, rx_buf_dma_map, 5, struct bpfhv_rx_context *ctx, void *vaddr, u32 len, u64 *paddr);
BPFHV_HELPER(int, rx_buf_dma_unmap, 6, struct bpfhv_rx_context *ctx, void *vaddr, u32 len, u64 paddr);
BPFHV_HELPER(int, tx_buf_dma_map, 7, struct bpfhv_tx_context *ctx, void *vaddr, u32 len, u64 *paddr);
BPFHV_HELPER(int, tx_buf_dma_unmap, 8, struct bpfhv_tx_context *ctx, void *vaddr, u32 len, u64 paddr);
/* Full memory barrier: what was stored before is visible before anything after it is loaded. */
BPFHV_HELPER(int, smp_mb_full, 9, void);
/* Prints a number to the driver's log. A string literal is data, which a program in use may not have: build it on the stack. */
BPFHV_HELPER(int, print_num, 10, const char *text, s64 number);

/* Numbers from 0x40 on are polynic's own: other drivers refuse a program that calls them. */

/*
 * Sealing (docs/sealing.md), with a key that the driver has from its operator: pkt_seal in txh, pkt_open in rxh, once for a packet. 0, or
 * -EPROTONOSUPPORT: neither IP nor ARP; -EMSGSIZE: too long when sealed; -EBADMSG: not authentic, or had before; -EINVAL: no packet at hand.
 */
BPFHV_HELPER(int, pkt_seal, 0x40, struct bpfhv_tx_context *ctx);
BPFHV_HELPER(int, pkt_open, 0x41, struct bpfhv_rx_context *ctx);

/* What is known of ctx->packet beside its bytes: when it came (nanoseconds since 1970), and a mark of its flow. 0, or -EINVAL. */
BPFHV_HELPER(int, pkt_meta_set, 0x42, struct bpfhv_rx_context *ctx, u64 stamp, u32 mark);

#endif
