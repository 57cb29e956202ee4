# Registers and the stack that nothing has set.

=== r0 is not set at the end
! refused 0 it returns r0, which nothing has set
  exit

=== a move of a register that is not set
! refused 1 it returns r0, which nothing has set
  mov %r0, %r3
  exit

=== r2 is not set at the start
! refused 1 it returns r0, which nothing has set
  mov %r0, %r2
  exit

=== arithmetic on a register that is not set
! refused 0 it reads r0
  add %r0, 1
  exit

=== a zero made of a register that is not set
! refused 0 it reads r0
  xor %r0, %r0
  exit

=== a comparison of a register that is not set
! refused 1 it reads r6
  mov %r0, 0
  jeq %r6, 0, +0
  exit

=== a store of a register that is not set
! refused 0 it reads r4
  stxw [%r1+0], %r4
  mov %r0, 0
  exit

=== an address in a register that is not set
! refused 0 it reads r5
  ldxw %r0, [%r5+0]
  exit

=== set on one path only
! refused 4 it reads r0
  ldxw %r2, [%r1+0]
  jeq %r2, 0, skip
  mov %r0, 1
  ja skip
skip:
  add %r0, 1
  exit

=== an argument register after a helper
! refused 1 r1, which a call has left undefined
  call 1
  ldxw %r0, [%r1+0]
  exit

=== an argument register after a local call
! refused 2 it returns r0, which a call has left undefined
  call local f
  mov %r0, %r2
  exit
f:
  mov %r0, 1
  mov %r2, 1
  exit

=== an empty stack slot
! refused 1 it returns r0, which was loaded from a place on the stack that nothing has set
  ldxdw %r0, [%r10-8]
  exit

=== a stack slot of which only a half is set
! refused 2 loaded from a place on the stack that nothing has set
  stw [%r10-8], 1
  ldxdw %r0, [%r10-8]
  exit

=== a stack slot set on one path only
! refused 5 loaded from a place on the stack that nothing has set
  ldxw %r2, [%r1+0]
  jeq %r2, 0, skip
  stdw [%r10-8], 1
  ja skip
skip:
  ldxdw %r0, [%r10-8]
  exit

=== a stack slot that a variable store may have left out
! refused 7 not all of which were set
  mov %r0, 0
  ldxb %r2, [%r1+0]
  and %r2, 7
  mov %r3, %r10
  add %r3, -16
  add %r3, %r2
  stb [%r3+0], 1
  ldxb %r0, [%r3+0]
  exit

=== the frame of a function that has returned
! refused 1 it reads r0, which points into the frame of a function that has returned
  call local f
  ldxdw %r0, [%r0-8]
  exit
f:
  stdw [%r10-8], 7
  mov %r0, %r10
  exit

=== a callee's frame starts empty
! refused 5 it reads r0, which was loaded from a place
  stdw [%r10-8], 1
  call local f
  mov %r0, 0
  exit
f:
  ldxdw %r0, [%r10-8]
  add %r0, 1
  exit

=== memory for a helper to read that is not set
! refused 2 it reads 16 bytes at -16
  mov %r1, %r10
  add %r1, -16
  call 3
  exit

=== an atomic on a stack slot that is not set
! refused 1 it reads 8 bytes at -8
  mov %r2, 1
  lock add [%r10-8], %r2
  mov %r0, 0
  exit

=== compare-and-exchange without what to compare with
! refused 1 it reads r0
  mov %r2, 1
  lock cmpxchg [%r1+0], %r2
  exit

=== a pointer on one path, a number on the other
! refused 4 it uses r6, which is a number (0), as an address
  mov %r6, 0
  ldxw %r2, [%r1+0]
  jeq %r2, 0, use
  mov %r6, %r1
use:
  ldxw %r0, [%r6+0]
  exit

=== set on the paths of a few values only
! refused 12 it returns r0, which
  ldxw %r2, [%r1+0]
  mov %r3, 0
  jset %r2, 1, +1
  mov %r3, 1
  jset %r2, 2, +1
  mov %r3, 2
  jset %r2, 4, +1
  mov %r3, 3
  jset %r2, 8, +1
  mov %r6, 4
  mov %r0, 0
  mov %r0, %r6
  exit

=== a copy of what is not set, in a sum
! refused 2 it reads r4, which nothing has set
  mov32 %r3, %r7
  mov %r4, %r3
  add %r4, 1
  mov %r0, 0
  exit

=== a copy of what is not set, stored in the context
! refused 2 it reads r2, which was loaded from a place
  ldxw %r3, [%r10-4]
  mov %r2, %r3
  stxw [%r1+0], %r2
  mov %r0, 0
  exit

=== what is not set, by way of the stack
! refused 3 it reads r2, which was loaded from a place
  stdw [%r10-8], 1
  stxdw [%r10-8], %r5
  ldxdw %r2, [%r10-8]
  jeq %r2, 0, end
end:
  mov %r0, 0
  exit

=== what is not set, stored at an offset that is not constant
! refused 5 it reads r5, which nothing has set
  ldxb %r2, [%r1+0]
  and %r2, 8
  mov %r3, %r10
  add %r3, -16
  add %r3, %r2
  stxdw [%r3+0], %r5
  mov %r0, 0
  exit

=== what is not set as an argument
! refused 2 it reads r1, which nothing has set
  mov %r6, %r1
  mov %r1, %r7
  call 3
  mov %r0, 0
  exit

=== a register that is set in a loop, of which nobody promises that it is entered
! refused 8 it reads r4, which nothing has set
  ldxw %r2, [%r1+16]
  and %r2, 63
  mov %r3, 0
  jge %r3, %r2, done
again:
  mov %r4, %r1
  add %r3, 1
  jlt %r3, %r2, again
done:
  ldxw %r5, [%r1+48]
  stxb [%r4+0], %r5
  mov %r0, 0
  exit

=== a promise of another field
! promise 20 1 64
! refused 3 it reads r4, which nothing has set
  ldxw %r2, [%r1+16]
  jeq %r2, 0, done
  mov %r4, %r1
done:
  ldxw %r0, [%r4+0]
  exit

=== a promise of a field of which only a part is read
! promise 16 1 64
! refused 3 it reads r4, which nothing has set
  ldxh %r2, [%r1+16]
  jeq %r2, 0, done
  mov %r4, %r1
done:
  ldxw %r0, [%r4+0]
  exit

=== a promise of the first of two fields that one instruction loads
! promise 16 1 16
! refused 8 it reads r6, which nothing has set
  mov %r3, 0
  mov %r4, %r1
again:
  ldxw %r2, [%r4+16]
  jeq %r2, 0, done
  mov %r6, %r1
  add %r4, 4
  add %r3, 1
  jlt %r3, 2, again
done:
  ldxw %r0, [%r6+0]
  exit
