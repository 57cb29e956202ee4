/** What a device offers a guest: queues, features, sizes of contexts, and programs, which are read with care. */
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

/** Reads the object file with the programs, and closes it. Throws EbpfError: EBPF_ELF_LIMIT for a file that is too long. */
export function readPrograms(fd: OwnedFd): ElfObject['programs'] {
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
