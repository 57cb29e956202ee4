/**
 * Where the fields of the datapath's structures are: byte offsets, sizes and small numbers, one list for the AssemblyScript
 * side and the TypeScript side. All structures live in the window, in memory that no guest can reach. Plain untyped constants only: both
 * compilers read this file.
 */

// --- Region table: what a guest physical address means. Sorted by address, regions do not overlap.
//
//   +0 count | REGIONS_SIZE: entries of REGION_SIZE bytes each
export const REGIONS_COUNT = 0; // u32
export const REGIONS_HEAD = 8;
export const REGION_GPA = 0; // u64 first guest physical address
export const REGION_LENGTH = 8; // u64 bytes
export const REGION_FLAT = 16; // u64 address in this process, for system calls
export const REGION_WINDOW = 24; // u32 address in the window, 0 = not in the window
export const REGION_DENIED = 28; // u32 DENY_*: what the device may not do there
export const REGION_SIZE = 32;
export const MAX_REGIONS = 65536; // a guest behind an IOMMU may name every page by itself
export const DENY_READ = 1;
export const DENY_WRITE = 2;

// --- Batch: frames on their way from a ring to a port or back.
//
//   batch ──► frames[count] ──► iov[]: header, payload…, each with its window address in win[]
export const BATCH_COUNT = 0; // u32 frames filled
export const BATCH_CAPACITY = 4; // u32 frames at most
export const BATCH_IOV_USED = 8; // u32
export const BATCH_IOV_CAPACITY = 12; // u32
export const BATCH_FRAMES = 16; // u32 address of frame[capacity]
export const BATCH_IOV = 20; // u32 address of struct iovec[iov capacity]
export const BATCH_WIN = 24; // u32 address of u32[iov capacity]
export const BATCH_HEADERS = 28; // u32 address of virtio_net_hdr[capacity]
export const BATCH_BASE = 32; // u64 address in this process of window address 0
export const BATCH_SPILL = 40; // u32 address of what a frame too long for its buffers runs into, SPILL_SIZE bytes
export const BATCH_METADATA = 44; // u32 1: its frames have, or are to have, the last two fields below
export const BATCH_SIZE = 64;
export const MAX_BATCH = 128;
export const SPILL_SIZE = 65536;

export const FRAME_IOV = 0; // u32 address of its first iovec, the virtio-net header
export const FRAME_IOVS = 4; // u32 number of iovecs, the header's included, the spill's not
export const FRAME_LENGTH = 8; // u32 bytes of the frame, the header not included
export const FRAME_ROOM = 12; // u32 receive: bytes that the buffers can hold
export const FRAME_HEADER = 16; // u32 window address of its virtio_net_hdr
export const FRAME_END = 20; // u32 the ring's index behind this frame
export const FRAME_WIN = 24; // u32 address of the window address of its first payload iovec
export const FRAME_SAVED = 28; // u32 the checksum field before it was finished for a capture
export const FRAME_STAMP = 32; // u64 when its port got it, nanoseconds since 1970; 0 = not known. This and the next only with BATCH_METADATA
export const FRAME_MARK = 40; // u32 what flow it belongs to; 0 = none
export const FRAME_SIZE = 48;

export const IOVEC_BASE = 0; // u64
export const IOVEC_LENGTH = 8; // u64
export const IOVEC_SIZE = 16;

export const VNET_HEADER_SIZE = 12; // the form with num_buffers
export const VNET_HEADER_STRIDE = 16;
export const VNET_FLAGS = 0; // u8
export const VNET_GSO_TYPE = 1; // u8
export const VNET_HDR_LEN = 2; // u16
export const VNET_GSO_SIZE = 4; // u16
export const VNET_CSUM_START = 6; // u16
export const VNET_CSUM_OFFSET = 8; // u16: from csum_start
export const VNET_NEEDS_CSUM = 1; // in flags
export const VNET_GSO_TCPV4 = 1;
export const VNET_GSO_UDP = 3;
export const VNET_GSO_TCPV6 = 4;
export const VNET_GSO_UDP_L4 = 5; // datagrams, where VNET_GSO_UDP means fragments of one
export const VNET_GSO_ECN = 0x80; // may come with either TCP type

// --- Offloads of one direction: what a frame's header may ask of whoever gets it. The bits are those of TUNSETOFFLOAD.
export const OFFLOAD_CSUM = 0x01; // to finish its checksum; all others need this one
export const OFFLOAD_TSO4 = 0x02; // to cut it into segments
export const OFFLOAD_TSO6 = 0x04;
export const OFFLOAD_UFO = 0x10; // into fragments of one datagram
export const OFFLOAD_USO = 0x60; // into datagrams: two bits, one each for IPv4 and IPv6, which kernels know only together
export const OFFLOAD_ALL = 0x77;
export const LARGE_FRAME = 65536; // bytes of a frame that is to be cut, at most

// --- Counters: u64 each, the same for every queue.
export const STAT_PACKETS = 0;
export const STAT_BYTES = 8;
export const STAT_BUFFERS = 16;
export const STAT_BATCHES = 24;
export const STAT_KICKS = 32;
export const STAT_INTERRUPTS = 40;
export const STAT_ERRORS = 48; // descriptors or completions that made no sense
export const STAT_DROPPED = 56; // frames that had no room or made no sense
export const STAT_UNAUTHENTIC = 64; // guest side: of the dropped ones, those that nobody with our key has sealed, or not for the first time
export const STATS_SIZE = 72;

// --- Device side of a queue: the authoritative copies of what the guest could otherwise move.
export const QUEUE_CONTEXT = 0; // u32 window address of the context
export const QUEUE_RING = 4; // u32 window address of the opaque part
export const QUEUE_NUM = 8; // u32 descriptors, a power of two
export const QUEUE_CONS = 12; // u32 free-running index of the next descriptor to consume
export const QUEUE_SEEN = 16; // u32 index behind the last descriptor that the present batch has looked at
export const QUEUE_REGIONS = 20; // u32 address of the region table
export const QUEUE_HINT = 24; // u32 address of the region entry that the last look-up hit
export const QUEUE_FAULT = 28; // u32 one of FAULT_*; not 0: the queue stands still until it is set up again
export const QUEUE_MAX_FRAME = 32; // u32 bytes
export const QUEUE_OFFLOADS = 36; // u32 OFFLOAD_* that the guest and we agreed on, for this direction
export const QUEUE_SHORT = 40; // u32 so many posted descriptors are known to be too few to go on with; 0 = not known
export const QUEUE_STATS = 64;
export const QUEUE_SIZE = 192;

export const FAULT_NONE = 0;
export const FAULT_INDEX = 1; // the guest's producer index is ahead by more than the ring holds
export const FAULT_COMPLETION = 2; // guest side: a completion for a buffer that is not posted, or too long
export const FAULT_PROGRAM = 3; // guest side: a program returned an error or broke the calling convention
export const FAULT_MEMORY = 4; // device side: buffers can't be brought into the window

// --- Virtqueue, device side (datapath/virtq.ts): a queue whose ring is three areas of guest memory. QUEUE_RING is the descriptor area. A position,
// such as QUEUE_CONS, is a free-running 16-bit index (split), or an index plus the size of the ring while the wrap counter is 0 (packed).
// QUEUE_SEEN and FRAME_END count chains of the batch, the refused ones included.
export const VIRTQ_DRIVER = 192; // u32 window address of the driver area: available ring | driver's event
export const VIRTQ_DEVICE = 196; // u32 … of the device area: used ring | device's event
export const VIRTQ_FLAGS = 200; // u32 VIRTQ_*: what was negotiated
export const VIRTQ_HEADER = 204; // u32 bytes of the virtio-net header in guest memory, 10 or 12
export const VIRTQ_FRESH = 208; // u32 1: nothing was completed since the start, the first completion interrupts in any case
export const VIRTQ_POSTED = 212; // u32 so many were posted at once already, as far as we have looked
export const VIRTQ_MISS_LENGTH = 216; // u32 bytes of what stopped the queue; 0: nothing
export const VIRTQ_MISS_KIND = 220; // u32 MISS_*
export const VIRTQ_MISS = 224; // u64 its address
export const VIRTQ_LOG = 232; // u32 window address of the dirty bitmap, 0 = nothing is logged
export const VIRTQ_LOG_SIZE = 236; // u32 bytes
export const VIRTQ_LOG_REGIONS = 240; // u32 region table by which process addresses become guest physical ones
export const VIRTQ_LOG_HINT = 244; // u32 … and where in it the one was that was found last; 0: none yet
export const VIRTQ_LOG_RING = 248; // u64 guest physical address of the ring that we write: used | descriptor; LOG_NOWHERE = not logged
export const VIRTQ_LOG_EVENT = 256; // u64 … of the device's event, packed only
export const VIRTQ_CHAINS = 320; // chains of the batch: u16 id, u16 descriptors, u32 room
export const VIRTQ_CHAIN_SIZE = 8;
export const VIRTQ_MAX_CHAINS = 512;
export const VIRTQ_PIECES = 4416; // a slot for each frame: where its header goes, in pieces: u64 address, u32 window address, u32 length
export const VIRTQ_PIECE_SIZE = 16;
export const VIRTQ_SLOT_SIZE = 192; // 12 pieces: the header torn into bytes
export const VIRTQ_SIZE = 28992;
export const VIRTQ_MAX_DESCRIPTORS = 1024; // of one chain, those of an indirect table included
export const LOG_NOWHERE = 4503599627370496; // beyond any bitmap

export const VIRTQ_PACKED = 1;
export const VIRTQ_EVENT_IDX = 2;
export const VIRTQ_INDIRECT = 4;
export const VIRTQ_MERGE = 8; // a received frame may take several chains
export const VIRTQ_IN_ORDER = 16;
export const VIRTQ_IOTLB = 32; // an address that is in no region may come to be in one: it is a miss, not a mistake
export const VIRTQ_RECEIVE = 64; // a receive queue

export const MISS_READ = 1; // no region holds it; it is to be read
export const MISS_WRITE = 2; // … to be written
export const MISS_WINDOW = 3; // we have to read or write it, and it is not in the window

// Descriptors of virtqueues: u64 address, u32 length, then u16 flags, u16 next (split, tables) | u16 id, u16 flags (packed).
export const VDESC_SIZE = 16;
export const VDESC_NEXT = 1;
export const VDESC_WRITE = 2; // by the device
export const VDESC_INDIRECT = 4;
export const VDESC_AVAIL = 0x80;
export const VDESC_USED = 0x8000;
export const VEVENT_ENABLE = 0;
export const VEVENT_DISABLE = 1;
export const VEVENT_DESC = 2; // at a position

// --- Guest side of a queue.
export const DRIVER_CONTEXT = 0; // u32 window address of the context
export const DRIVER_NUM = 4; // u32 descriptors of the ring: buffers in flight at most
export const DRIVER_PUBLISH = 8; // u32 function table index of rxp | txp
export const DRIVER_COMPLETE = 12; // u32 … rxc | txc
export const DRIVER_ARM = 16; // u32 … rxi | txi
export const DRIVER_RECLAIM = 20; // u32 … rxr | txr
export const DRIVER_BUFFERS = 24; // u32 window address of the first buffer
export const DRIVER_STRIDE = 28; // u32 bytes from one buffer to the next, a power of two
export const DRIVER_ROOM = 32; // u32 bytes of a frame that a buffer may hold
export const DRIVER_POSTED = 36; // u32 buffers that the device has
export const DRIVER_FREE = 40; // u32 address of the stack of free buffers, u32 each
export const DRIVER_FREE_COUNT = 44; // u32
export const DRIVER_OWNER = 48; // u32 address of one byte a buffer, OWNER_*
export const DRIVER_FAULT = 52; // u32 FAULT_*
export const DRIVER_BUFFERS_GPA = 56; // u64 guest physical address of the first buffer
export const DRIVER_STATS = 64;
export const DRIVER_FRAME_BUFFERS = 136; // u32 buffers that a frame may take; it has no more bytes than they hold
export const DRIVER_OFFLOADS = 140; // u32 receive: OFFLOAD_* that the device's headers may ask for
export const DRIVER_PREPARE = 144; // u32 function table index of txh, 0 = there is none
export const DRIVER_FINISH = 148; // u32 … rxh
export const DRIVER_STAGING = 152; // u32 address of private memory for the frames of a batch, 0 = they lie in the queue's buffers
export const DRIVER_SIZE = 192;
export const STAGING_SLOT = 2048; // bytes of a frame's place in the staging area
export const STAGING_SIZE = STAGING_SLOT * MAX_BATCH;
export const SEAL_GROWTH = 28; // bytes by which a frame grows when it is sealed (docs/sealing.md)

// --- Virtqueue, driver side (datapath/vdrv.ts): the fields above but for context, programs and staging; DRIVER_NUM is the number of buffers, at most
// VDRV_RING. Buffer i has VDRV_HEADROOM bytes, the header at their end, and DRIVER_ROOM bytes of payload.
export const VDRV_DESCRIPTOR = 256; // u32 window address of the descriptor area
export const VDRV_DRIVER = 260; // u32 … of the driver area
export const VDRV_DEVICE = 264; // u32 … of the device area
export const VDRV_RING = 268; // u32 descriptors of the ring
export const VDRV_FLAGS = 272; // u32 VIRTQ_*: what was negotiated
export const VDRV_HEADER = 276; // u32 bytes of the virtio-net header, 10 or 12
export const VDRV_AVAIL = 280; // u32 position of the next descriptor or chain to make available
export const VDRV_USED = 284; // u32 … of the next that comes back
export const VDRV_LINKS = 288; // u32 address of a chain link for each buffer: u16 next buffer, u16 descriptors of the chain that it begins
export const VDRV_TABLES = 292; // u32 window address of an indirect table for each buffer, 0 = chains are direct
export const VDRV_TABLES_GPA = 296; // u64
export const VDRV_TABLE_STRIDE = 304; // u32 bytes from one to the next
export const VDRV_SENT = 308; // u32 address of u32 bytes, u32 position for each buffer that begins a frame which the device has
export const VDRV_ORDER = 312; // u32 with IN_ORDER: address of u16 first buffer, u16 id of each chain that the device has, a ring (vdrv-order.ts)
export const VDRV_NEXT = 316; // u32 … of a split ring: the next descriptor
export const VDRV_OFFERED = 320; // u32 … the entry behind the youngest one
export const VDRV_OUT = 324; // u32 … how many there are
export const VDRV_BACK = 328; // u32 … how many of them are known to be back
export const VDRV_BACK_LENGTH = 332; // u32 … bytes in the last of these
export const VDRV_SIZE = 384;
export const VDRV_HEADROOM = 16;

export const OWNER_FREE = 0;
export const OWNER_DRIVER = 1; // in a batch
export const OWNER_DEVICE = 2; // posted

// --- bpfhv queue context: the head that every device type shares (docs/bpfhv.md).
export const CTX_GUEST_PRIV = 0; // u64
export const CTX_PACKET = 8; // u64
export const CTX_NUM_BUFS = 16; // u32
export const CTX_IFLAGS = 20; // u32
export const CTX_OFLAGS = 24; // u32
export const CTX_MIN_COMPLETED_BUFS = 28; // u32
export const CTX_MIN_INTR_NSECS = 32; // u32
export const CTX_BUFS = 48;
export const CTX_OPAQUE = 2096;
export const CTX_MAX_BUFS = 64;
export const BUF_COOKIE = 0; // u64
export const BUF_PADDR = 8; // u64
export const BUF_VADDR = 16; // u64
export const BUF_LEN = 24; // u32
export const BUF_SIZE = 32;
export const OFLAG_KICK = 1;

// --- source and sink
export const FLOW_SEQUENCE = 0; // u64 next number to write, or to expect
export const FLOW_OUT_OF_ORDER = 8; // u64 frames whose number was another
export const FLOW_FOLD = 16; // u64 all bytes read, folded together, so that reading can't be optimised away
export const FLOW_SIZE = 64;
export const SOURCE_MIN_LENGTH = 24; // Ethernet header, two bytes of padding, u64 number

// --- Port: what both halves of a port share. The flow of source and sink comes first, then counters, f64 each.
export const PORT_COUNTERS = 64;
export const PORT_RECEIVED = 64; // frames that came from outside
export const PORT_SENT = 72; // frames that went outside
export const PORT_DROPPED = 80; // frames that outside did not take
export const PORT_TOO_LONG = 88; // frames longer than the buffers they were for
export const PORT_ERRORS = 96; // system calls that failed otherwise
export const PORT_OFFLOADS = 104; // u32 OFFLOAD_* that frames from this port may ask for
export const PORT_SOFTENED = 112; // frames that were finished or cut in software
export const PORT_SIZE = 128;

// --- A large frame that is being cut into pieces (picture in datapath/segment.ts).
export const SEGMENTS_LENGTH = 0; // u32 bytes of the frame; 0: there is none
export const SEGMENTS_NEXT = 4; // u32 offset in the frame of what comes next
export const SEGMENTS_SIZE = 8; // u32 bytes of it in a piece
export const SEGMENTS_COUNT = 12; // u32 pieces so far
export const SEGMENTS_KIND = 16; // u32 SEGMENT_*
export const SEGMENTS_V6 = 20; // u32 1: IPv6
export const SEGMENTS_L3 = 24; // u32 offset of the IP header
export const SEGMENTS_L4 = 28; // u32 offset of the TCP or UDP header
export const SEGMENTS_START = 32; // u32 offset in the frame of the first byte to be shared out
export const SEGMENTS_HEADERS = 36; // u32 bytes of headers of a piece
export const SEGMENTS_PSEUDO = 40; // u32 sum of the pseudo-header without its length
export const SEGMENTS_DATAGRAMS = 44; // u32 identifications given to fragmented datagrams so far
export const SEGMENTS_KEY = 48; // u64 a secret, so that they can't be guessed
export const SEGMENTS_PIECES = 56; // u32 address of the batch for `segment_fill`
export const SEGMENTS_METADATA = 60; // u32 1: the frame came with the next two
export const SEGMENTS_STAMP = 64; // u64
export const SEGMENTS_MARK = 72; // u32
export const SEGMENTS_TEMPLATE = 128; // headers that those of all pieces are made of
export const SEGMENTS_SCRATCH = 384; // headers of one piece
export const SEGMENTS_MAX_HEADERS = 224; // room for a fragment header behind them
export const SEGMENTS_HEADERS_STRIDE = 256;
export const SEGMENTS_FRAME = 640;
export const SEGMENTS_BYTES = 66176; // with the frame
export const SEGMENTS_MOST = 1366; // pieces of a frame: one of 64 KiB in segments of 48 bytes, TCP's smallest

export const SEGMENT_WHOLE = 0; // the frame as it is, its checksum finished
export const SEGMENT_TCP = 1;
export const SEGMENT_DATAGRAM = 2;
export const SEGMENT_FRAGMENT = 3;

// --- Switch (datapath/switch.ts): what the ports of one switch share.
export const SWITCH_MAX_PORTS = 32;
export const SWITCH_SETS = 2048; // of the address table, a power of two
export const SWITCH_WAYS = 8; // addresses of a set
export const SWITCH_SECRET = 0; // u64 odd: what addresses are hashed with
export const SWITCH_PORTS = 64; // u32[SWITCH_MAX_PORTS] address of each port, 0 = none
export const SWITCH_KEYS = 192; // u64[SWITCH_SETS * SWITCH_WAYS]; 0 = free
export const SWITCH_SEEN = 131264; // u32 for each key: when its address was last a source, in seconds of the monotonic clock
export const SWITCH_SIZE = 196800;

// A port of it.
export const MEMBER_NUMBER = 0; // u32 index in SWITCH_PORTS
export const MEMBER_ISOLATED = 4; // u32 1: it has no traffic with other isolated ones
export const MEMBER_LANES = 8; // u32 lanes in service
export const MEMBER_AGE = 12; // u32 seconds that its addresses are known without being used
export const MEMBER_SHARE = 16; // u32 addresses that it may have
export const MEMBER_LOCK = 20; // u32 1: one of its lanes learns
export const MEMBER_FLOOD_INTERVAL = 24; // u64 nanoseconds that a flooded frame costs
export const MEMBER_FLOOD_BURST = 32; // u64 nanoseconds that may be owed
export const MEMBER_FLOOD_PAID = 64; // u64 time up to which flooding is paid for
export const MEMBER_INBOXES = 128; // u32[32] address of each lane's inbox
export const MEMBER_SLOTS = 256; // u32[share] address of the key of each of its addresses, 0 = none
export const MEMBER_SIZE = 256; // without the slots

// A lane of a port: behind the state that lanes of all ports have.
export const SWLANE_SWITCH = 128; // u32
export const SWLANE_MEMBER = 132; // u32
export const SWLANE_INBOX = 136; // u32
export const SWLANE_EPOCH = 140; // u32 odd while it may be using other ports
export const SWLANE_WAKES = 144; // u32 inboxes whose owners are to be woken
export const SWLANE_FLOODED = 152; // f64 frames that went to all
export const SWLANE_LIMITED = 160; // f64 … that were too many to go to all
export const SWLANE_FILTERED = 168; // f64 … for the port that they came from, between isolated ones, or for bridges only
export const SWLANE_LEARNED = 176; // f64 addresses that were new
export const SWLANE_MOVED = 184; // f64 … that another port had before
export const SWLANE_UNREACHABLE = 192; // f64 frames of which some buffer is not in the window
export const SWLANE_HEAD = 256; // the first bytes of a frame whose first buffer is short
export const SWLANE_HEAD_SIZE = 128;
export const SWLANE_WAKE_FDS = 384; // u32[SWLANE_MAX_WAKES] their eventfds
export const SWLANE_MAX_WAKES = 64;
export const SWLANE_SIZE = 640;

// The inbox of a lane (picture in datapath/switch-inbox.ts). Each group is on cache lines of its own.
export const INBOX_DATA = 0; // u32 address of the blocks
export const INBOX_BLOCKS = 4; // u32 how many, a power of two
export const INBOX_MARKS = 8; // u32 address of a u32 for each block
export const INBOX_FD = 12; // u32 eventfd that wakes its owner
export const INBOX_TAIL = 64; // u32 block behind the last reserved one, free-running
export const INBOX_MISSED = 72; // u64 frames that found it full
export const INBOX_HEAD = 128; // u32 block to be read next, free-running
export const INBOX_ASKED = 132; // u32 1: its owner has set INBOX_ARMED, and not seen it taken
export const INBOX_OWED = 136; // i32 signals that its owner has still to read
export const INBOX_ARMED = 192; // u32 1: whoever brings a frame takes this and signals
export const INBOX_SIZE = 256;
export const INBOX_BLOCK = 64; // bytes
export const INBOX_PREFIX = 16; // bytes before a frame's own: its virtio-net header
