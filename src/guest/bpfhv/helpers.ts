/** The helpers that bpfhv programs may call (docs/bpfhv.md, "Helpers"): their signatures, and who does the work. */
import type { HelperSpec, HelperTable } from '../../ebpf/helpers.js';
import type { DatapathExports } from '../../ring/datapath.js';

const BASE = 0x4b8f0000;
export const PKT_SEAL = BASE + 0x40;
export const PKT_OPEN = BASE + 0x41;
const EINVAL = -22n;
const context = { kind: 'context' } as const;
const number = { kind: 'number' } as const;
const ignored = { kind: 'ignored' } as const;
const writes = (size: number) => ({ kind: 'memory', size, access: 'write' }) as const;
const reads = (size: number) => ({ kind: 'memory', size, access: 'read' }) as const;

const SPECS: readonly HelperSpec[] = [
  { id: BASE, name: 'rx_pkt_alloc', args: [context] },
  { id: BASE + 1, name: 'pkt_l4_csum_md_get', args: [context, writes(2), writes(2)] },
  { id: BASE + 2, name: 'pkt_l4_csum_md_set', args: [context, number, number] },
  { id: BASE + 3, name: 'pkt_virtio_net_md_get', args: [context, writes(10)] },
  { id: BASE + 4, name: 'pkt_virtio_net_md_set', args: [context, reads(10)] },
  { id: BASE + 5, name: 'rx_buf_dma_map', args: [context, number, number, writes(8)] },
  { id: BASE + 6, name: 'rx_buf_dma_unmap', args: [context, number, number, number] },
  { id: BASE + 7, name: 'tx_buf_dma_map', args: [context, number, number, writes(8)] },
  { id: BASE + 8, name: 'tx_buf_dma_unmap', args: [context, number, number, number] },
  { id: BASE + 9, name: 'smp_mb_full', args: [], inline: 'fence' },
  { id: BASE + 10, name: 'print_num', args: [ignored, number] },
  { id: PKT_SEAL, name: 'pkt_seal', args: [context] },
  { id: PKT_OPEN, name: 'pkt_open', args: [context] },
  { id: BASE + 0x42, name: 'pkt_meta_set', args: [context, number, number] },
];

export const BPFHV_HELPERS: HelperTable = new Map(SPECS.map(spec => [spec.id, spec]));

/** The work behind them, in the datapath module; `print` gets what programs print. */
export function helperImplementations(calls: DatapathExports, print: (value: bigint) => void) {
  return new Map<number, (...args: bigint[]) => bigint>([
    [BASE, calls.helper_rx_pkt_alloc],
    [BASE + 1, calls.helper_csum_get],
    [BASE + 2, calls.helper_csum_set],
    [BASE + 3, calls.helper_vnet_get],
    [BASE + 4, calls.helper_vnet_set],
    [BASE + 5, calls.helper_dma_map],
    [BASE + 6, calls.helper_dma_unmap],
    [BASE + 7, calls.helper_dma_map],
    [BASE + 8, calls.helper_dma_unmap],
    // Without a key there is nothing that they could do: seal-helpers.ts has the real ones.
    [PKT_SEAL, () => EINVAL],
    [PKT_OPEN, () => EINVAL],
    [BASE + 0x42, calls.helper_meta_set],
    [
      BASE + 10,
      (_text, value) => {
        print(BigInt.asIntN(64, value!));
        return 0n;
      },
    ],
  ]);
}
