/*
 * sring.h - the opaque part of an sring queue context: a ring of descriptors and two free-running indices.
 *
 *      clear            cons              prod
 *        |    completed   |    posted       |      free
 *   -----+----------------+-----------------+-------------->  index mod 2^32
 *        '- taken back    '- the device     '- the programs
 *           by rxc, txc      moves it          publish here
 *
 * The slot of an index is `index & qmask`. Fields that different sides write lie 128 bytes apart, so that no two of them
 * share a cache line (nor a pair that the processor fetches together). One buffer is one packet; there are no offloads.
 */
#ifndef SRING_H
#define SRING_H

#include "../bpfhv.h"

struct sring_desc {
    u64 cookie;
    u64 paddr;
    u32 len; /* of a receive buffer: its room, then the received length, which the device writes */
    u32 pad;
};

struct sring_ring {
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
    struct sring_desc desc[];
};

BPFHV_ASSERT_OFFSET(struct sring_desc, cookie, 0);
BPFHV_ASSERT_OFFSET(struct sring_desc, paddr, 8);
BPFHV_ASSERT_OFFSET(struct sring_desc, len, 16);
BPFHV_ASSERT_SIZE(struct sring_desc, 24);
BPFHV_ASSERT_OFFSET(struct sring_ring, prod, 0);
BPFHV_ASSERT_OFFSET(struct sring_ring, intr_enabled, 4);
BPFHV_ASSERT_OFFSET(struct sring_ring, intr_at, 4);
BPFHV_ASSERT_OFFSET(struct sring_ring, cons, 128);
BPFHV_ASSERT_OFFSET(struct sring_ring, kick_enabled, 132);
BPFHV_ASSERT_OFFSET(struct sring_ring, qmask, 256);
BPFHV_ASSERT_OFFSET(struct sring_ring, clear, 384);
BPFHV_ASSERT_OFFSET(struct sring_ring, desc, 512);

#endif
