# Loops without an end, code that is not reached, calls.

=== a jump to itself
! refused 0 a loop starts here that may never end
again:
  ja again

=== a wait for the other side
! refused 1 a loop starts here that may never end
  mov %r0, 0
again:
  ldxw %r2, [%r1+0]
  jne %r2, 0, again
  exit

=== a counter that goes the wrong way
! refused 2 the program is not seen to end
  mov %r0, 0
  mov %r2, 1
again:
  add %r2, 1
  jne %r2, 0, again
  exit

=== a bound that is read again in each round
! refused 1 a loop starts here that may never end
  mov %r0, 0
again:
  ldxw %r2, [%r1+0]
  jlt %r0, %r2, again
  exit

=== as many rounds as shared memory says
! refused 2 the program is not seen to end
  mov %r0, 0
  ldxw %r2, [%r1+0]
again:
  add %r0, 1
  jlt %r0, %r2, again
  exit

=== a counter that starts anew
! refused 2 the loop that starts here went on for
  mov %r0, 0
  mov %r2, 10
again:
  ldxw %r3, [%r1+0]
  add %r2, -1
  jne %r2, 0, again
  mov %r2, 10
  jne %r3, 0, again
  exit

=== a counter that the other side can set
! refused 1 a loop starts here that may never end
  stw [%r1+0], 10
again:
  ldxw %r0, [%r1+0]
  add %r0, -1
  stxw [%r1+0], %r0
  jne %r0, 0, again
  exit

=== a step that may be zero
! refused 2 a loop starts here that may never end
  mov %r0, 0
  ldxb %r2, [%r1+0]
again:
  add %r0, %r2
  jlt %r0, 100, again
  exit

=== too many rounds
! refused 1 the program is not seen to end
  mov %r0, 0
again:
  add %r0, 1
  mov %r2, 1
  mov %r2, 2
  mov %r2, 3
  mov %r2, 4
  mov %r2, 5
  mov %r2, 6
  jlt %r0, 0x7fffffff, again
  exit

=== loops within loops that multiply
! refused 7 it may execute more than 1048576 instructions
  mov %r0, 0
  mov %r2, 0
outer:
  mov %r3, 0
inner:
  add %r3, 1
  jlt %r3, 10000, inner
  add %r2, 1
  jlt %r2, 10000, outer
  exit

=== a loop entered in two places, up to a number from shared memory
! refused 4 the program is not seen to end
  mov %r0, 0
  ldxw %r2, [%r1+0]
  jeq %r2, 0, b
a:
  add %r0, 1
b:
  jlt %r0, %r2, a
  exit

=== code after an exit
! refused 2 no path leads here
  mov %r0, 0
  exit
  mov %r0, 1
  exit

=== code that is jumped over
! refused 2 no path leads here
  mov %r0, 0
  ja end
  mov %r0, 1
end:
  exit

=== a function that nobody calls
! refused 2 no path leads here
  mov %r0, 0
  exit
f:
  mov %r0, 1
  exit

=== recursion
! refused 2 recursion is not followed
  call local f
  exit
f:
  call local f
  exit

=== recursion that would end
! refused 6 recursion is not followed
  mov %r1, 3
  call local f
  exit
f:
  mov %r0, 0
  jeq %r1, 0, end
  add %r1, -1
  call local f
end:
  exit

=== recursion through two functions
! refused 4 recursion is not followed
  call local f
  exit
f:
  call local g
  exit
g:
  call local f
  exit

=== a call of the main function
! refused 0 recursion is not followed
  call local -1
  exit

=== a ninth frame
! refused 15 calls nest deeper than 8 frames
  mov %r0, 0
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
  call local h
  exit
h:
  mov %r0, 0
  exit

=== a helper that does not exist
! refused 0 there is no helper 4711
  call 4711
  exit

=== a runtime function that does not exist
! refused 0 there is no helper
  call runtime 42
  exit

=== a helper by a number from the context
! refused 1 it calls a helper by r2, of which the value is not known
  ldxw %r2, [%r1+0]
  callx %r2
  exit

=== a helper by a pointer
! refused 0 it calls the helper whose number is in r1, which is a pointer
  callx %r1
  exit

=== a helper by a number that is none
! refused 1 there is no helper 99
  mov %r2, 99
  callx %r2
  exit

=== something else than the context for a helper
! refused 1 use wants the context as argument 1, and r1 is context+8
  add %r1, 8
  call 1
  exit

=== a number for a helper that wants the context
! refused 1 use wants the context as argument 1, and r1 is 0
  mov %r1, 0
  call 1
  exit

=== the stack for a helper that wants the context
! refused 1 and r1 is frame 0+0
  mov %r1, %r10
  call 1
  exit

=== a number for a helper that wants memory
! refused 1 as an address
  mov %r1, 64
  call 2
  exit

=== memory for a helper that is partly outside the frame
! refused 2 not surely inside the frame
  mov %r1, %r10
  add %r1, -8
  call 2
  exit

=== memory for a helper that is partly outside the context
! refused 1 it accesses 16 bytes at offset 49
  add %r1, 49
  call 2
  exit

=== an argument that is not set
! refused 0 it reads r2
  call 5
  exit

=== a size that is not bounded
! refused 5 not surely inside the frame
  ldxw %r3, [%r1+0]
  mov %r1, 0
  mov %r2, %r10
  add %r2, -16
  ja do
do:
  call 4
  exit

=== a size that is a pointer
! refused 3 it passes to fill as a size r3, which is a pointer
  mov %r3, %r1
  mov %r2, %r10
  mov %r1, 0
  call 4
  exit

=== a helper's result as an address
! refused 1 as an address
  call 1
  ldxw %r0, [%r0+0]
  exit

=== a pointer on the stack given to a helper to read
! refused 4 holds a pointer
  stxdw [%r10-16], %r1
  stdw [%r10-8], 0
  mov %r1, %r10
  add %r1, -16
  call 3
  exit

=== a pointer on the stack that a helper overwrites
! refused 5 as an address
  stxdw [%r10-16], %r1
  mov %r1, %r10
  add %r1, -16
  call 2
  ldxdw %r2, [%r10-16]
  ldxw %r0, [%r2+0]
  exit
