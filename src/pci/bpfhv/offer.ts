/** What a device offers a guest: queues, features, sizes of contexts, and programs; asked for, and read with care. */
import { fstatSync, readSync } from 'node:fs';
import { type ElfObject, loadObject } from '../../ebpf/elf.js';
import { EbpfError } from '../../ebpf/errors.js';
import { PROGRAMS } from '../../guest/bpfhv/registers.js';
import type { OwnedFd } from '../../linux/fd.js';
import type { NicParameters } from '../../nic/control.js';

/** The object file that a backend sends may be so long. */
const MAX_OBJECT = 4 * 1024 * 1024;
const PROGRAM_SECTIONS: ReadonlySet<string> = new Set(PROGRAMS.map(({ section }) => section));

export interface Offer {
  readonly parameters: NicParameters;
  readonly features: bigint;
  readonly rxContextSize: number;
  readonly txContextSize: number;
  readonly programs: ElfObject['programs'];
}

type Awaitable<T> = T | Promise<T>;

/** Whom it is asked of. */
export interface OfferSource {
  features(): Awaitable<bigint>;
  setFeatures(accepted: bigint): Awaitable<void>;
  setParameters(parameters: NicParameters): Awaitable<{ rxContextSize: number; txContextSize: number }>;
  /** The ELF object; whoever has asked closes it. */
  programs(): Awaitable<OwnedFd>;
}

/**
 * Asks for all of it, in the order in which existing hypervisors do. `accept` tells the source that no feature is accepted yet, which it
 * refuses while it runs. Throws what the source throws, and EbpfError for an object that is none.
 */
export async function askOffer(
  source: OfferSource,
  parameters: NicParameters,
  { accept }: { accept: boolean },
): Promise<Offer> {
  const features = await source.features();
  if (accept) await source.setFeatures(0n);
  const sizes = await source.setParameters(parameters);
  const programs = readObject(await source.programs());
  return { parameters, features, ...sizes, programs };
}

/** Reads the object file, and closes it. Throws EbpfError: EBPF_ELF_LIMIT for a file that is too long. */
function readObject(fd: OwnedFd): ElfObject['programs'] {
  try {
    const { size } = fstatSync(fd.fd);
    if (size > MAX_OBJECT)
      throw new EbpfError('EBPF_ELF_LIMIT', `an object file of ${size} bytes, ${MAX_OBJECT} at most`);
    const bytes = Buffer.alloc(size);
    for (let at = 0; at < size; ) {
      const n = readSync(fd.fd, bytes, at, size - at, at);
      if (n === 0) throw new EbpfError('EBPF_ELF', `the object file ends after ${at} of ${size} bytes`);
      at += n;
    }
    return loadObject(bytes, { sections: PROGRAM_SECTIONS }).programs;
  } finally {
    fd.close();
  }
}
