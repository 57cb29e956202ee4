# Programs that must not be refused, and the guards they need.

=== the least program
! accepted
  mov %r0, 0
  exit

=== a number from the context
! accepted
  ldxw %r0, [%r1+60]
  exit

=== the whole context, byte by byte
! accepted
  mov %r0, 0
  mov %r2, 0
again:
  mov %r3, %r1
  add %r3, %r2
  ldxb %r4, [%r3+0]
  add %r0, %r4
  add %r2, 1
  jlt %r2, 64, again
  exit

=== the whole context by a pointer that moves
! accepted
  mov %r0, 0
  mov %r2, %r1
  add %r2, 64
again:
  ldxdw %r4, [%r1+0]
  add %r0, %r4
  add %r1, 8
  jne %r1, %r2, again
  exit

=== a pointer that moves down to the start
! accepted
  mov %r0, 0
  mov %r2, %r1
  add %r1, 64
again:
  add %r1, -8
  ldxdw %r4, [%r1+0]
  add %r0, %r4
  jgt %r1, %r2, again
  exit

=== an index that is masked
! accepted
  ldxw %r2, [%r1+0]
  and %r2, 63
  add %r1, %r2
  ldxb %r0, [%r1+0]
  exit

=== an index that is masked too widely
! accepted 3
  ldxw %r2, [%r1+0]
  and %r2, 127
  add %r1, %r2
  ldxb %r0, [%r1+0]
  exit

=== an index that is compared
! accepted
  mov %r0, 0
  ldxw %r2, [%r1+0]
  jgt %r2, 56, end
  add %r1, %r2
  ldxdw %r0, [%r1+0]
end:
  exit

=== an index that is compared signed, with both ends
! accepted
  mov %r0, 0
  ldxsw %r2, [%r1+0]
  jsgt %r2, 10, end
  jslt %r2, -10, end
  add %r1, %r2
  ldxb %r0, [%r1+10]
end:
  exit

=== an index that is compared after its upper half was cleared in a copy
! accepted
  mov %r0, 0
  ldxdw %r2, [%r1+0]
  mov %r3, %r2
  lsh %r3, 32
  rsh %r3, 32
  jgt %r3, 60, end
  lsh %r2, 32
  rsh %r2, 32
  add %r1, %r2
  ldxw %r0, [%r1+0]
end:
  exit

=== an index that is compared in 32 bits
! accepted
  mov %r0, 0
  ldxdw %r2, [%r1+0]
  jgt32 %r2, 60, end
  mov32 %r2, %r2
  add %r1, %r2
  ldxw %r0, [%r1+0]
end:
  exit

=== an index that is compared after it was spilled
! accepted
  mov %r0, 0
  ldxw %r2, [%r1+0]
  stxdw [%r10-8], %r2
  jgt %r2, 60, end
  ldxdw %r3, [%r10-8]
  add %r1, %r3
  ldxw %r0, [%r1+0]
end:
  exit

=== an index from a division
! accepted
  ldxw %r2, [%r1+0]
  div %r2, 0x4000000
  add %r1, %r2
  ldxb %r0, [%r1+0]
  exit

=== an index from a remainder
! accepted
  ldxdw %r2, [%r1+0]
  mod %r2, 61
  add %r1, %r2
  ldxw %r0, [%r1+0]
  exit

=== a remainder by what may be zero is the dividend
! accepted 4
  ldxdw %r2, [%r1+0]
  ldxb %r3, [%r1+8]
  mod %r2, %r3
  add %r1, %r2
  ldxb %r0, [%r1+0]
  exit

=== a division by zero is zero
! accepted
  ldxdw %r2, [%r1+0]
  mov %r3, 0
  div %r2, %r3
  add %r1, %r2
  ldxdw %r0, [%r1+0]
  exit

=== the least number divided by -1
! accepted
  lddw %r2, 0x8000000000000000
  sdiv %r2, -1
  rsh %r2, 63
  add %r1, %r2
  ldxb %r0, [%r1+0]
  exit

=== a shift by more than the width
! accepted
  mov %r2, 1
  lsh %r2, 67
  add %r1, %r2
  ldxdw %r0, [%r1+48]
  exit

=== 32-bit results have a clear upper half
! accepted
  ldxdw %r2, [%r1+0]
  and32 %r2, 31
  add32 %r2, 1
  add %r1, %r2
  ldxw %r0, [%r1+0]
  exit

=== sign extensions of a constant
! accepted
  mov %r2, 0xff
  movsx864 %r2, %r2
  neg %r2
  add %r1, %r2
  ldxb %r0, [%r1+0]
  exit

=== swapped bytes of a masked number
! accepted
  ldxb %r2, [%r1+0]
  and %r2, 3
  be64 %r2
  rsh %r2, 56
  add %r1, %r2
  ldxb %r0, [%r1+0]
  exit

=== an offset of 64 bits from the context
! accepted 2 3
  ldxdw %r2, [%r1+0]
  add %r1, %r2
  ldxdw %r0, [%r1+8]
  stxdw [%r1+16], %r0
  exit

=== an offset of 64 bits, once guarded
! guarded context
! accepted 2
  ldxdw %r2, [%r1+0]
  add %r1, %r2
  ldxdw %r0, [%r1+8]
  ldxw %r3, [%r1+12]
  stxdw [%r1+8], %r0
  exit

=== a context pointer kept on the stack
! accepted
  stxdw [%r10-8], %r1
  ldxdw %r2, [%r10-8]
  ldxw %r0, [%r2+0]
  exit

=== a context pointer kept over a guarded store that may hit it
! accepted 3 5
  stxdw [%r10-8], %r1
  ldxdw %r2, [%r1+0]
  add %r1, %r2
  stdw [%r1+0], 0
  ldxdw %r3, [%r10-8]
  ldxw %r0, [%r3+0]
  exit

=== a context pointer kept over a guarded store that cannot hit it
! guarded context
! accepted 3
  stxdw [%r10-8], %r1
  ldxdw %r2, [%r1+0]
  add %r1, %r2
  stdw [%r1+0], 0
  ldxdw %r3, [%r10-8]
  ldxw %r0, [%r3+0]
  exit

=== a table on the stack
! accepted
  stdw [%r10-16], 0x0102
  stdw [%r10-8], 0x0304
  ldxb %r2, [%r1+0]
  and %r2, 15
  mov %r3, %r10
  add %r3, -16
  add %r3, %r2
  ldxb %r0, [%r3+0]
  exit

=== a histogram on the stack
! accepted
  mov %r0, 0
  mov %r2, 0
clear:
  mov %r3, %r10
  sub %r3, %r2
  stdw [%r3-8], 0
  add %r2, 8
  jlt %r2, 512, clear
  mov %r2, 0
count:
  mov %r3, %r1
  add %r3, %r2
  ldxb %r4, [%r3+0]
  and %r4, 63
  lsh %r4, 3
  mov %r5, %r10
  add %r5, -512
  add %r5, %r4
  ldxdw %r4, [%r5+0]
  add %r4, 1
  stxdw [%r5+0], %r4
  add %r2, 1
  jne %r2, 64, count
  ldxdw %r0, [%r10-512]
  exit

=== bytes of a stored number
! accepted
  stw [%r10-4], 0x01020304
  ldxb %r0, [%r10-3]
  exit

=== two halves read as one
! accepted
  stw [%r10-8], 1
  stw [%r10-4], 2
  ldxdw %r0, [%r10-8]
  exit

=== an extra region
! accepted
  mov %r2, 0xc000
  stdw [%r2+16], 1
  ldxdw %r0, [%r2+16]
  exit

=== an extra region with an index
! accepted
  ldxb %r2, [%r1+0]
  and %r2, 15
  add %r2, 0xc000
  ldxdw %r0, [%r2+0]
  exit

=== the distance of two pointers
! accepted
  mov %r0, %r1
  add %r0, 24
  sub %r0, %r1
  add %r1, %r0
  ldxb %r0, [%r1+39]
  exit

=== no context is at address 0
! accepted
  mov %r0, 0
  jeq %r1, 0, end
  ldxw %r0, [%r1+0]
end:
  exit

=== atomics of every kind
! accepted
  mov %r0, 0
  mov %r2, 1
  lock add [%r1+0], %r2
  lock fetch add [%r1+8], %r2
  lock or32 [%r1+4], %r2
  lock fetch or32 [%r1+12], %r2
  lock and [%r1+16], %r2
  lock fetch and [%r1+16], %r2
  lock xor32 [%r1+20], %r2
  lock fetch xor32 [%r1+20], %r2
  lock xchg [%r1+24], %r2
  lock cmpxchg [%r1+32], %r2
  stdw [%r10-8], 5
  lock fetch add32 [%r10-4], %r0
  ldxdw %r0, [%r10-8]
  exit

=== what an atomic fetched is not known
! accepted 4
  mov %r0, 0
  mov %r2, 1
  lock fetch add [%r1+0], %r2
  add %r1, %r2
  ldxb %r0, [%r1+0]
  exit

=== an atomic at an address of which the low bits are not known
! accepted 4
  mov %r2, 1
  ldxb %r3, [%r1+0]
  and %r3, 31
  add %r1, %r3
  lock add [%r1+0], %r2
  mov %r0, 0
  exit

=== an atomic at an index that is scaled
! accepted
  mov %r2, 1
  ldxb %r3, [%r1+0]
  and %r3, 7
  lsh %r3, 3
  add %r1, %r3
  lock add [%r1+0], %r2
  mov %r0, 0
  exit

=== a loop over at most 64 buffers
! context 2096
! accepted
  mov %r0, 0
  ldxw %r2, [%r1+16]
  jgt %r2, 64, end
  jeq %r2, 0, end
  mov %r3, 0
  add %r1, 48
again:
  ldxdw %r4, [%r1+8]
  add %r0, %r4
  stdw [%r1+24], 0
  add %r1, 32
  add %r3, 1
  jlt %r3, %r2, again
end:
  exit

=== a loop that counts down to a test for equality
! accepted
  mov %r0, 0
  mov %r2, 64
again:
  add %r2, -1
  add %r0, 2
  jne %r2, 0, again
  exit

=== a loop up to a number from the context, with a test for equality
! accepted
  mov %r0, 0
  ldxb %r2, [%r1+0]
  jeq %r2, 0, end
  jgt %r2, 64, end
  mov %r3, 0
again:
  add %r3, 1
  add %r1, 1
  ldxb %r4, [%r1-1]
  add %r0, %r4
  jne %r3, %r2, again
end:
  exit

=== a loop with a counter of 32 bits
! accepted
  mov %r0, 0
  mov32 %r2, 0
again:
  mov %r3, %r1
  add %r3, %r2
  ldxb %r3, [%r3+0]
  add32 %r0, %r3
  add32 %r2, 1
  jlt32 %r2, 64, again
  exit

=== a loop with its counter on the stack
! accepted
  mov %r0, 0
  stdw [%r10-8], 0
again:
  ldxdw %r2, [%r10-8]
  mov %r3, %r1
  add %r3, %r2
  ldxb %r3, [%r3+0]
  add %r0, %r3
  add %r2, 1
  stxdw [%r10-8], %r2
  jlt %r2, 64, again
  exit

=== a loop of many rounds
! accepted
  mov %r0, 0
  mov %r2, 0
again:
  mov %r3, %r2
  and %r3, 63
  mov %r4, %r1
  add %r4, %r3
  stb [%r4+0], 0
  add %r2, 1
  jlt %r2, 10000, again
  exit

=== loops within loops
! accepted
  mov %r0, 0
  mov %r2, 0
outer:
  mov %r3, 0
inner:
  mov %r4, %r2
  lsh %r4, 3
  add %r4, %r3
  mov %r5, %r1
  add %r5, %r4
  ldxb %r5, [%r5+0]
  add %r0, %r5
  add %r3, 1
  jlt %r3, 8, inner
  add %r2, 1
  jlt %r2, 8, outer
  exit

=== an inner loop whose bound is the outer counter
! accepted
  mov %r0, 0
  mov %r2, 1
outer:
  mov %r3, 0
inner:
  mov %r5, %r1
  add %r5, %r3
  ldxb %r5, [%r5+0]
  add %r0, %r5
  add %r3, 1
  jlt %r3, %r2, inner
  add %r2, 1
  jlt %r2, 65, outer
  exit

=== a loop with two ways through and an early end
! accepted
  mov %r0, 0
  mov %r2, 0
again:
  mov %r3, %r1
  add %r3, %r2
  ldxb %r3, [%r3+0]
  jeq %r3, 0, end
  jlt %r3, 128, small
  add %r0, 1
small:
  add %r2, 1
  jlt %r2, 64, again
end:
  exit

=== a loop that finds what shared memory says, with a bound of its own
! accepted
  mov %r0, 0
again:
  ldxw %r2, [%r1+0]
  jeq %r0, %r2, end
  add %r0, 1
  jlt %r0, 64, again
end:
  exit

=== a loop entered in two places
! accepted
  mov %r0, 0
  ldxw %r2, [%r1+0]
  jeq %r2, 0, b
a:
  add %r0, 1
b:
  add %r0, 1
  jlt %r0, 60, a
  exit

=== a flag that is set and tested on the same paths
! accepted
  mov %r0, 0
  ldxw %r2, [%r1+0]
  mov %r3, 0
  jeq %r2, 0, test
  mov %r3, 1
  mov %r6, %r1
test:
  jeq %r3, 0, end
  ldxw %r0, [%r6+0]
end:
  exit

=== a helper of each kind
! accepted
  mov %r6, %r1
  call 1
  mov %r1, %r10
  add %r1, -16
  call 2
  mov %r1, %r10
  add %r1, -16
  call 3
  mov %r1, 7
  mov %r2, %r6
  mov %r3, 64
  call 4
  mov %r1, %r6
  mov %r2, %r0
  call 5
  call -5
  ldxdw %r0, [%r10-16]
  exit

=== a helper by a constant in a register
! accepted
  mov %r2, 1
  callx %r2
  exit

=== a helper that fills as much as it is told
! accepted
  stdw [%r10-8], 0
  ldxb %r3, [%r1+0]
  and %r3, 7
  mov %r1, 0
  mov %r2, %r10
  add %r2, -8
  call 4
  ldxdw %r0, [%r10-8]
  exit

=== a helper that fills nothing, anywhere
! accepted
  mov %r1, 0
  mov %r2, 0
  mov %r3, 0
  call 4
  exit

=== memory for a helper at an offset that is not bounded
! accepted 2
  ldxdw %r2, [%r1+0]
  add %r1, %r2
  call 2
  exit

=== the context for a helper after a guarded store
! accepted 3 5
  stxdw [%r10-8], %r1
  ldxdw %r2, [%r1+0]
  add %r1, %r2
  stdw [%r1+0], 0
  ldxdw %r1, [%r10-8]
  call 1
  exit

=== registers kept over a local call
! accepted
  mov %r6, %r1
  mov %r7, 5
  call local f
  add %r6, %r7
  ldxb %r0, [%r6+0]
  exit
f:
  mov %r6, 100
  mov %r7, 100
  mov %r0, 0
  exit

=== a pointer into the caller's frame
! accepted
  stdw [%r10-8], 1
  mov %r1, %r10
  add %r1, -8
  call local f
  ldxdw %r0, [%r10-8]
  exit
f:
  stdw [%r1+0], 2
  mov %r0, 0
  exit

=== a local function that returns a pointer
! accepted
  call local f
  ldxw %r0, [%r0+0]
  exit
f:
  mov %r0, %r1
  add %r0, 60
  exit

=== eight frames
! accepted
  call local a
  exit
a:
  call local b
  exit
b:
  call local c
  exit
c:
  call local d
  exit
d:
  call local e
  exit
e:
  call local f
  exit
f:
  call local g
  exit
g:
  ldxw %r0, [%r1+0]
  exit

=== a local function in a loop
! accepted
  mov %r6, %r1
  mov %r7, 0
again:
  mov %r1, %r6
  add %r1, %r7
  call local f
  add %r7, 1
  jne %r7, 64, again
  exit
f:
  ldxb %r0, [%r1+0]
  exit

=== code behind a test that never comes out so
! accepted
  mov %r0, 0
  jeq %r0, 0, end
  ldxw %r0, [%r0+0]
end:
  exit

=== a number kept over a guarded store that may hit it
! accepted 3 6
  stdw [%r10-8], 8
  ldxdw %r2, [%r1+0]
  add %r2, %r1
  stdw [%r2+0], 64
  ldxdw %r3, [%r10-8]
  add %r1, %r3
  ldxb %r0, [%r1+0]
  exit

=== only the low half of an index is compared
! accepted 7
  mov %r0, 0
  ldxdw %r2, [%r1+0]
  mov %r3, %r2
  lsh %r3, 32
  rsh %r3, 32
  jgt %r3, 60, end
  add %r1, %r2
  ldxw %r0, [%r1+0]
end:
  exit

=== the low half of what was shifted up says nothing
! accepted 7
  mov %r0, 0
  ldxdw %r2, [%r1+0]
  mov %r3, %r2
  lsh %r3, 32
  mov32 %r4, %r3
  jgt %r4, 60, end
  add %r1, %r2
  ldxw %r0, [%r1+0]
end:
  exit

=== the path of which less is known comes second
! accepted 7
  mov %r3, 0
  ldxb %r2, [%r1+0]
  jeq %r2, 0, use
  ldxdw %r3, [%r1+8]
  mov %r2, 0
use:
  add %r1, %r3
  mov %r0, 0
  ldxb %r0, [%r1+0]
  exit

=== the path of whose stack less is known comes second
! accepted 10
  mov %r3, 0
  stxdw [%r10-8], %r3
  ldxb %r2, [%r1+0]
  jeq %r2, 0, use
  ldxdw %r3, [%r1+8]
  stxdw [%r10-8], %r3
  mov %r2, 0
  mov %r3, 0
use:
  ldxdw %r3, [%r10-8]
  add %r1, %r3
  ldxb %r0, [%r1+0]
  exit

=== copies on one path that are none on the other
! accepted 9
  mov %r0, 0
  ldxb %r4, [%r1+0]
  ldxb %r2, [%r1+1]
  mov %r3, %r2
  jeq %r4, 0, use
  ldxb %r3, [%r1+2]
  mov %r4, 0
use:
  jgt %r2, 50, end
  add %r1, %r3
  ldxb %r0, [%r1+13]
end:
  exit

=== a loop that does not always move by the same step
! accepted 5
  mov %r0, 0
  mov %r2, 0
again:
  mov %r3, %r1
  add %r3, %r0
  ldxb %r4, [%r1+0]
  ldxb %r5, [%r3+0]
  add %r0, 1
  jeq %r4, 0, even
  add %r0, 1
even:
  add %r2, 1
  jlt %r2, 60, again
  mov %r0, 0
  exit

=== an index between two ends, compared once after both were moved
! accepted
  mov %r0, 0
  ldxw %r2, [%r1+0]
  mov %r3, %r2
  add %r3, -57
  lsh %r3, 32
  rsh %r3, 32
  lddw %r4, 0xffffffc8
  jgt %r4, %r3, end
  add %r1, %r2
  ldxdw %r0, [%r1-1]
end:
  exit

=== the same in 32 bits
! accepted
  mov %r0, 0
  ldxw %r2, [%r1+0]
  mov32 %r3, %r2
  sub32 %r3, 57
  jlt32 %r3, -56, end
  add %r1, %r2
  ldxdw %r0, [%r1-1]
end:
  exit

=== what is not set is copied and loaded, but not used
! accepted
  mov %r7, %r0
  ldxdw %r3, [%r10-8]
  stxdw [%r10-16], %r3
  ldxw %r4, [%r1+0]
  mov %r0, 0
  jeq %r4, 0, end
  mov %r7, 5
  stdw [%r10-16], 6
  ldxdw %r3, [%r10-16]
  add %r7, %r3
  mov %r0, %r7
end:
  exit

=== a loop that a guard bounds: as many rounds as shared memory says, and a pointer into the context that moves along
! guarded context
! accepted 6
  mov %r0, 0
  mov %r2, 0
again:
  ldxw %r3, [%r1+0]
  jge %r2, %r3, end
  mov %r4, %r1
  add %r4, %r2
  stb [%r4+0], 1
  add %r2, 1
  ja again
end:
  exit

=== a register that is set in a loop, which the context is promised to enter
! promise 16 1 64
! guarded context
! accepted 0 8
  ldxw %r2, [%r1+16]
  mov %r3, 0
  jge %r3, %r2, done
again:
  mov %r4, %r1
  add %r3, 1
  jlt %r3, %r2, again
done:
  ldxdw %r5, [%r1+48]
  add %r4, %r5
  stxb [%r4+0], %r3
  mov %r0, 0
  exit

=== a promise that is not needed costs nothing
! promise 16 1 64
! accepted
  ldxw %r2, [%r1+16]
  mov %r0, %r2
  exit

=== an address given to a helper that does not look at it
! accepted
  mov %r1, %r10
  mov %r2, 7
  call helper 0x4b8f000a
  mov %r0, 0
  exit

=== a buffer mapped for the device, by what the context says of it
! context 4096
! accepted
  ldxdw %r2, [%r1+64]
  ldxw %r3, [%r1+72]
  mov %r4, %r10
  add %r4, -8
  call helper 0x4b8f0005
  ldxdw %r0, [%r10-8]
  exit

=== a helper that writes behind a confined guard leaves the stack alone
! guarded context
! accepted 3
  stxdw [%r10-8], %r1
  ldxdw %r2, [%r1+0]
  add %r1, %r2
  call 2
  ldxdw %r1, [%r10-8]
  ldxb %r0, [%r1+0]
  exit

=== a helper that writes behind a guard may overwrite a pointer
! accepted 3 5
  stxdw [%r10-8], %r1
  ldxdw %r2, [%r1+0]
  add %r1, %r2
  call 2
  ldxdw %r1, [%r10-8]
  ldxb %r0, [%r1+0]
  exit

=== nothing at all, given to a helper behind a confined guard, says nothing of the pointer
! guarded context
! accepted 6 7
  ldxdw %r2, [%r1+0]
  add %r2, %r1
  mov %r6, %r2
  ldxb %r3, [%r1+8]
  and %r3, 7
  mov %r1, 0
  call 4
  ldxb %r0, [%r6+0]
  exit

=== pointers into the context compared, far from its end
! accepted 5
  ldxw %r2, [%r1+0]
  lsh %r2, 20
  mov %r3, %r1
  add %r3, %r2
  jle %r3, %r1, end
  ldxb %r0, [%r3+0]
end:
  mov %r0, 0
  exit

=== pointers that may lie anywhere compared for being the same
! accepted
  ldxdw %r2, [%r1+0]
  mov %r3, %r1
  add %r3, %r2
  jne %r3, %r1, end
  ldxb %r0, [%r3+63]
end:
  mov %r0, 0
  exit
