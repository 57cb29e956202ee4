/*
 * sring_gso.h - the opaque part of an sring_gso queue context: an sring whose packets may have several descriptors, and a
 * virtio-net header in the last one.
 *
 *      clear            cons              prod
 *        |    completed   |    posted       |      free
 *   -----+----------------+-----------------+-------------->  index mod 2^32, slot = index & qmask
 *        [ ][ ][EOP][EOP]  [ ][EOP]
 *        '- packet -'
 *
 * A receive buffer is posted without flags; the device ends a packet by EOP and may leave buffers that it did not need for
 * the next one. Fields that different sides write lie 128 bytes apart, as in sring.h.
 */
#ifndef SRING_GSO_H
#define SRING_GSO_H

#include "../bpfhv.h"

#define SRING_GSO_EOP 1u
#define SRING_GSO_NEEDS_CSUM 2u

struct sring_gso_desc {
    u64 cookie;
    u64 paddr;
    u16 len; /* of a receive buffer: its room, then the bytes received, which the device writes */
    u16 flags;
    /* From here on: of the descriptor with EOP. */
    u16 csum_start;
    u16 csum_offset;
    union {
        struct {
            u16 hdr_len;
            u16 gso_size;
        } tx;
        struct {
            u16 gso_size;
            u16 hdr_len;
        } rx;
    };
    u16 gso_type;
    u16 reserved;
};

struct sring_gso_ring {
    /* The guest writes these, the device reads them. */
    u32 prod;
    union {
        u32 intr_enabled; /* rx: interrupt on every packet */
        u32 intr_at;      /* tx: interrupt when the descriptor with this index is done */
    };
    u8 pad_guest[120];
    /* The device writes these, the guest reads them. Only reclaim, when the device is stopped, stores cons. */
    u32 cons;
    u32 kick_enabled;
    u8 pad_device[120];
    /* Set by the device when the context is registered. */
    u32 qmask;
    u8 pad_constant[124];
    /* The guest's own: the first descriptor it has not taken back. */
    u32 clear;
    u8 pad_private[124];
    struct sring_gso_desc desc[];
};

BPFHV_ASSERT_OFFSET(struct sring_gso_desc, cookie, 0);
BPFHV_ASSERT_OFFSET(struct sring_gso_desc, paddr, 8);
BPFHV_ASSERT_OFFSET(struct sring_gso_desc, len, 16);
BPFHV_ASSERT_OFFSET(struct sring_gso_desc, flags, 18);
BPFHV_ASSERT_OFFSET(struct sring_gso_desc, csum_start, 20);
BPFHV_ASSERT_OFFSET(struct sring_gso_desc, csum_offset, 22);
BPFHV_ASSERT_OFFSET(struct sring_gso_desc, tx.hdr_len, 24);
BPFHV_ASSERT_OFFSET(struct sring_gso_desc, tx.gso_size, 26);
BPFHV_ASSERT_OFFSET(struct sring_gso_desc, rx.gso_size, 24);
BPFHV_ASSERT_OFFSET(struct sring_gso_desc, rx.hdr_len, 26);
BPFHV_ASSERT_OFFSET(struct sring_gso_desc, gso_type, 28);
BPFHV_ASSERT_SIZE(struct sring_gso_desc, 32);
BPFHV_ASSERT_OFFSET(struct sring_gso_ring, prod, 0);
BPFHV_ASSERT_OFFSET(struct sring_gso_ring, intr_enabled, 4);
BPFHV_ASSERT_OFFSET(struct sring_gso_ring, intr_at, 4);
BPFHV_ASSERT_OFFSET(struct sring_gso_ring, cons, 128);
BPFHV_ASSERT_OFFSET(struct sring_gso_ring, kick_enabled, 132);
BPFHV_ASSERT_OFFSET(struct sring_gso_ring, qmask, 256);
BPFHV_ASSERT_OFFSET(struct sring_gso_ring, clear, 384);
BPFHV_ASSERT_OFFSET(struct sring_gso_ring, desc, 512);

#endif
