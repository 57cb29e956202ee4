/** What a backend offers a guest: features, sizes of contexts, and programs; asked for, and read with care. */
import { fstatSync, readSync } from 'node:fs';
import { type ElfObject, loadObject } from '../../ebpf/elf.js';
import { PROGRAMS } from '../../guest/bpfhv/registers.js';
import type { OwnedFd } from '../../linux/fd.js';
import type { NicParameters } from '../../nic/control.js';
import { ProxyError } from './errors.js';
import type { ProxyFrontend } from './frontend.js';

/** The object file that a backend sends may be so long. */
const MAX_OBJECT = 4 * 1024 * 1024;
const PROGRAM_SECTIONS: ReadonlySet<string> = new Set(PROGRAMS.map(({ section }) => section));

export interface Offer {
  readonly features: bigint;
  readonly rxContextSize: number;
  readonly txContextSize: number;
  readonly programs: ElfObject['programs'];
}

/**
 * Asks for all of it, in the order in which existing hypervisors do. `accept` tells the backend that no feature is accepted yet, which it
 * refuses while it runs. Throws ProxyError, and EbpfError for an object that is none.
 */
export async function askOffer(
  frontend: ProxyFrontend,
  parameters: NicParameters,
  { accept }: { accept: boolean },
): Promise<Offer> {
  const features = await frontend.getFeatures();
  if (accept) await frontend.setFeatures(0n);
  const sizes = await frontend.setParameters(parameters);
  const programs = readObject(await frontend.getPrograms());
  return { features, ...sizes, programs };
}

/** Reads the object file that a backend sent, and closes it. Throws EbpfError, or ProxyError PROXY_VALUE for a file that is too long. */
function readObject(fd: OwnedFd): ElfObject['programs'] {
  try {
    const { size } = fstatSync(fd.fd);
    if (size > MAX_OBJECT)
      throw new ProxyError('PROXY_VALUE', `an object file of ${size} bytes, ${MAX_OBJECT} at most`);
    const bytes = Buffer.alloc(size);
    for (let at = 0; at < size; ) {
      const n = readSync(fd.fd, bytes, at, size - at, at);
      if (n === 0) throw new ProxyError('PROXY_VALUE', `the object file ends after ${at} of ${size} bytes`);
      at += n;
    }
    return loadObject(bytes, { sections: PROGRAM_SECTIONS }).programs;
  } finally {
    fd.close();
  }
}
