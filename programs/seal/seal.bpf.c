/*
 * seal.bpf.c - what turns any ring format into one whose packets are sealed: the ring's own programs, and the two optional ones.
 *
 * Compiled once for every ring format, with its source as BPFHV_BASE, to DEVICE/DEVICE_seal.o. The helpers do the work, with a key that
 * only the guest's driver has: the programs, which come from the host, never see it, nor a byte of the packet.
 */
#include BPFHV_BASE

/* Before a packet is published: 0 ok, else it is dropped. */
BPFHV_PROGRAM("txh") int tx_seal(struct bpfhv_tx_context *ctx) { return pkt_seal(ctx); }

/* After a packet was received: 0 ok, else it is dropped. */
BPFHV_PROGRAM("rxh") int rx_open(struct bpfhv_rx_context *ctx) { return pkt_open(ctx); }
