# Accesses that are surely, or on the stack only possibly, outside.

=== behind the context
! refused 0 it accesses 4 bytes at offset 64 of the context, which is 64 bytes long
  ldxw %r0, [%r1+64]
  exit

=== the last byte behind the context
! refused 0 it accesses 8 bytes at offset 57 of the context
  ldxdw %r0, [%r1+57]
  exit

=== before the context
! refused 0 it accesses 1 bytes at offset -1
  ldxb %r0, [%r1-1]
  exit

=== an empty context
! context 0
! refused 0 which is 0 bytes long
  ldxb %r0, [%r1+0]
  exit

=== a context that is too short for this program
! context 2096
! refused 0 it accesses 4 bytes at offset 2096 of the context, which is 2096 bytes long
  ldxw %r0, [%r1+2096]
  exit

=== a store behind the context
! refused 1 at offset 100
  add %r1, 100
  stw [%r1+0], 1
  mov %r0, 0
  exit

=== an index that is surely too large
! refused 3 it accesses 1 bytes at offsets 64…319
  ldxb %r2, [%r1+0]
  add %r2, 64
  add %r1, %r2
  ldxb %r0, [%r1+0]
  exit

=== above the frame
! refused 0 not surely inside the frame
  stdw [%r10+0], 1
  mov %r0, 0
  exit

=== partly above the frame
! refused 0 not surely inside the frame
  stdw [%r10-4], 1
  mov %r0, 0
  exit

=== below the frame
! refused 0 it accesses 8 bytes at r10-520
  stdw [%r10-520], 1
  mov %r0, 0
  exit

=== a stack index that goes one byte too far
! refused 4 and r3 is frame 0 + -255…0: not surely inside
  ldxb %r2, [%r1+0]
  mov %r3, %r10
  add %r3, -255
  add %r3, %r2
  stb [%r3+0], 0
  mov %r0, 0
  exit

=== a stack index from shared memory
! refused 3 not surely inside the frame
  ldxw %r2, [%r1+0]
  mov %r3, %r10
  sub %r3, %r2
  stb [%r3+0], 0
  mov %r0, 0
  exit

=== an index that is checked on the other path only
! refused 5 not surely inside the frame
  ldxw %r2, [%r1+0]
  mov %r0, 0
  mov %r3, %r10
  jgt %r2, 100, +0
  sub %r3, %r2
  stb [%r3-1], 0
  exit

=== the frame of the caller, above its top
! refused 4 not surely inside the frame
  mov %r1, %r10
  call local f
  mov %r0, 0
  exit
f:
  stdw [%r1+0], 1
  mov %r0, 0
  exit

=== an atomic that is misaligned in the context
! refused 1 it updates 8 bytes atomically at an address that is no multiple of 8
  mov %r2, 1
  lock add [%r1+4], %r2
  mov %r0, 0
  exit

=== an atomic that is misaligned on the stack
! refused 2 no multiple of 4
  stdw [%r10-8], 0
  mov %r2, 1
  lock add32 [%r10-7], %r2
  mov %r0, 0
  exit

=== an atomic behind the context
! refused 1 at offset 64
  mov %r2, 1
  lock add [%r1+64], %r2
  mov %r0, 0
  exit

=== a loop that runs out of the frame
! refused 5 not surely inside the frame
  mov %r0, 0
  mov %r2, %r10
  mov %r3, 65
again:
  add %r2, -8
  add %r3, -1
  stdw [%r2+0], 0
  jne %r3, 0, again
  exit

=== a length that is read twice
! refused 8 not surely inside the frame
  mov %r0, 0
  ldxw %r2, [%r1+0]
  jgt %r2, 256, out
  ldxw %r2, [%r1+0]
  mov %r3, %r10
  add %r3, -256
  ja use
use:
  add %r3, %r2
  stb [%r3+0], 0
out:
  exit

=== an atomic on the stack of which the alignment is not known
! refused 6 not surely a multiple of 8
  stdw [%r10-16], 0
  stdw [%r10-8], 0
  ldxb %r2, [%r1+0]
  and %r2, 7
  add %r2, %r10
  mov %r0, 1
  lock add [%r2-16], %r0
  exit

=== memory that is not surely inside, for a helper named by a register, where guards are confined
! guarded context
! refused 3 it gives r1 to a helper by r3, and that is not surely inside the context
  mov %r3, 2
  ldxdw %r2, [%r1+0]
  add %r1, %r2
  callx %r3
  exit
