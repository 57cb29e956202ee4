/*
 * vring_packed.h - the opaque part of a vring_packed queue context: the packed ring of VirtIO 1.1 with event index.
 *
 * There is one ring and no index that both sides share: what a descriptor's two bits say depends on the lap, which each
 * side counts by a wrap counter that starts at 1 and turns over at the end of the ring.
 *
 *            next_used            next_avail        with a wrap counter of 1 (of 0: both bits the other way round)
 *               |                    |
 *   +-------+---+-----+--------------+---------+
 *   | taken | used    | available    | free    |    available: avail = 1, used = 0    the guest wrote it
 *   | back  | 1 1     | 1 0          | 0 0     |    used:      avail = 1, used = 1    the device is done
 *   +-------+---------+--------------+---------+
 *
 * A position is an index and the wrap counter of its lap, together 16 bits (off_wrap): positions repeat after two laps.
 * An event says when its writer wants to be told: always, never, or when the other side passes a position.
 *
 * A descriptor carries an id, which comes back with it and leads to the guest's state: the driver's cookie, and the list
 * of ids that are free. One buffer is one packet; there are no chains, no indirect tables, no offloads.
 */
#ifndef VRING_PACKED_H
#define VRING_PACKED_H

#include "../bpfhv.h"

#define DESC_NEXT 1u
#define DESC_WRITE 2u /* the device writes into the buffer: set when it is to receive */
#define DESC_INDIRECT 4u
#define DESC_AVAIL 0x80u
#define DESC_USED 0x8000u
#define DESC_TURN (DESC_AVAIL | DESC_USED) /* whose turn it is */

#define EVENT_ENABLE 0u
#define EVENT_DISABLE 1u
#define EVENT_DESC 2u

struct vring_packed_desc {
    u64 addr;
    union {
        struct {
            u32 len; /* of a receive buffer: its room, then the received length, which the device writes */
            u16 id;
            u16 flags;
        };
        u64 word; /* all three: read and written at once, so that the flags can not be seen without the others */
    };
};

/* The guest's own; nobody else reads it. */
struct vring_packed_state {
    u64 cookie;
    union {
        struct {
            u16 busy; /* 1: the descriptor with this id is out */
            u16 num;  /* descriptors of the chain: 1 */
            u16 next; /* of a free id: the next free one */
            u16 last; /* last id of the chain: this one */
        };
        u64 word;
    };
};

union vring_packed_event {
    struct {
        u16 off_wrap; /* bits 0 to 14: index, bit 15: wrap counter */
        u16 flags;    /* EVENT_* */
    };
    u32 word; /* both: read and written at once */
};

struct vring_packed {
    /* The guest's own, but the device goes on from next_used after a stop. */
    u16 next_free_id;
    u16 next_avail_idx;
    u16 next_used_idx;
    u8 avail_wrap;
    u8 used_wrap;
    u16 avail_used_flags; /* what makes a descriptor available in this lap */
    u8 pad_guest[54];
    /* The device's own; it writes them and does not read them back. */
    u16 host_next_avail_idx;
    u16 host_next_used_idx;
    u8 host_avail_wrap;
    u8 host_used_wrap;
    u16 host_avail_used_flags;
    u16 host_device_event_flags;
    u8 pad_host[54];
    /* Set by the device when the context is registered. */
    u64 state_ofs; /* from the start of this structure to the states */
    u32 num_desc;
    u8 pad_constant[52];
    union vring_packed_event driver_event; /* the guest writes it: when to interrupt */
    u8 pad_driver[60];
    union vring_packed_event device_event; /* the device writes it: when to kick */
    u8 pad_device[60];
    struct vring_packed_desc desc[];
};

BPFHV_ASSERT_OFFSET(struct vring_packed_desc, addr, 0);
BPFHV_ASSERT_OFFSET(struct vring_packed_desc, word, 8);
BPFHV_ASSERT_OFFSET(struct vring_packed_desc, len, 8);
BPFHV_ASSERT_OFFSET(struct vring_packed_desc, id, 12);
BPFHV_ASSERT_OFFSET(struct vring_packed_desc, flags, 14);
BPFHV_ASSERT_SIZE(struct vring_packed_desc, 16);
BPFHV_ASSERT_OFFSET(struct vring_packed_state, cookie, 0);
BPFHV_ASSERT_OFFSET(struct vring_packed_state, busy, 8);
BPFHV_ASSERT_OFFSET(struct vring_packed_state, num, 10);
BPFHV_ASSERT_OFFSET(struct vring_packed_state, next, 12);
BPFHV_ASSERT_OFFSET(struct vring_packed_state, last, 14);
BPFHV_ASSERT_SIZE(struct vring_packed_state, 16);
BPFHV_ASSERT_SIZE(union vring_packed_event, 4);
BPFHV_ASSERT_OFFSET(struct vring_packed, next_free_id, 0);
BPFHV_ASSERT_OFFSET(struct vring_packed, next_avail_idx, 2);
BPFHV_ASSERT_OFFSET(struct vring_packed, next_used_idx, 4);
BPFHV_ASSERT_OFFSET(struct vring_packed, avail_wrap, 6);
BPFHV_ASSERT_OFFSET(struct vring_packed, used_wrap, 7);
BPFHV_ASSERT_OFFSET(struct vring_packed, avail_used_flags, 8);
BPFHV_ASSERT_OFFSET(struct vring_packed, host_next_avail_idx, 64);
BPFHV_ASSERT_OFFSET(struct vring_packed, host_next_used_idx, 66);
BPFHV_ASSERT_OFFSET(struct vring_packed, host_avail_wrap, 68);
BPFHV_ASSERT_OFFSET(struct vring_packed, host_used_wrap, 69);
BPFHV_ASSERT_OFFSET(struct vring_packed, host_avail_used_flags, 70);
BPFHV_ASSERT_OFFSET(struct vring_packed, host_device_event_flags, 72);
BPFHV_ASSERT_OFFSET(struct vring_packed, state_ofs, 128);
BPFHV_ASSERT_OFFSET(struct vring_packed, num_desc, 136);
BPFHV_ASSERT_OFFSET(struct vring_packed, driver_event, 192);
BPFHV_ASSERT_OFFSET(struct vring_packed, device_event, 256);
BPFHV_ASSERT_OFFSET(struct vring_packed, desc, 320);

#endif
