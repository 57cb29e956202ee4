# Loops of which no bound is in sight, where they may run under a budget. In refused-flow.asm most of them are refused.

=== as many rounds as shared memory says, once
! unbounded budget
! accepted
! budget
  mov %r0, 0
  ldxw %r2, [%r1+0]
again:
  add %r0, 1
  jlt %r0, %r2, again
  exit

=== as many rounds as shared memory says, in each round anew
! unbounded budget
! accepted
! budget
  mov %r0, 0
again:
  ldxw %r2, [%r1+0]
  add %r0, 1
  jlt %r0, %r2, again
  exit

=== a guard in such a loop, which bounds nothing where it may let the stack pass
! unbounded budget
! context 256
! accepted 4
! budget
  mov %r0, 0
again:
  ldxw %r2, [%r1+0]
  mov %r3, %r1
  add %r3, %r0
  stb [%r3+0], 1
  add %r0, 1
  jlt %r0, %r2, again
  exit

=== a guard that bounds it
! unbounded budget
! guarded context
! accepted 4
  mov %r0, 0
again:
  ldxw %r2, [%r1+0]
  mov %r3, %r1
  add %r3, %r0
  stb [%r3+0], 1
  add %r0, 1
  jlt %r0, %r2, again
  exit

=== a pointer to the context that is kept on the stack over all rounds
! unbounded budget
! guarded context
! accepted
! budget
  mov %r0, 0
  stxdw [%r10-8], %r1
  stdw [%r10-16], 0
again:
  ldxdw %r3, [%r10-8]
  ldxw %r2, [%r3+0]
  ldxdw %r4, [%r10-16]
  add %r4, 1
  stxdw [%r10-16], %r4
  jlt %r4, %r2, again
  exit

=== an index that starts where shared memory says
! unbounded budget
! guarded context
! accepted 7
! budget
  mov %r0, 0
  ldxw %r2, [%r1+0]
again:
  ldxw %r3, [%r1+4]
  jeq %r2, %r3, end
  mov %r4, %r2
  and %r4, 0x3f
  add %r4, %r1
  ldxdw %r0, [%r4+0]
  add %r2, 1
  ja again
end:
  mov %r0, 0
  exit

=== a 16-bit index
! unbounded budget
! accepted
! budget
  mov %r0, 0
  ldxh %r2, [%r1+0]
again:
  ldxh %r3, [%r1+4]
  jeq %r2, %r3, end
  add %r2, 1
  and %r2, 0xffff
  ja again
end:
  exit

=== a 32-bit index, by shifts
! unbounded budget
! accepted
! budget
  mov %r0, 0
  ldxw %r2, [%r1+0]
again:
  ldxw %r3, [%r1+4]
  add %r2, 1
  lsh %r2, 32
  rsh %r2, 32
  jne %r2, %r3, again
  exit

=== different steps on different ways
! unbounded budget
! accepted
! budget
  mov %r0, 0
again:
  ldxw %r2, [%r1+0]
  jset %r2, 1, odd
  add %r0, 1
odd:
  add %r0, 2
  jlt %r0, %r2, again
  exit

=== more instructions than anybody waits for
! unbounded budget
! accepted
! budget
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

=== a loop with a bound needs none
! unbounded budget
! accepted
  mov %r0, 0
  ldxw %r2, [%r1+0]
again:
  add %r0, 1
  jge %r0, 64, end
  jlt %r0, %r2, again
end:
  exit

=== a loop without a bound in one with a bound
! unbounded budget
! accepted
! budget
  mov %r0, 0
  mov %r2, 0
outer:
  mov %r3, 0
inner:
  ldxw %r4, [%r1+0]
  add %r3, 1
  jlt %r3, %r4, inner
  add %r2, 1
  jlt %r2, 8, outer
  exit

=== an index to the stack
! unbounded budget
! refused 6 not surely inside the frame
  mov %r0, 0
  mov %r2, 0
again:
  ldxw %r3, [%r1+0]
  mov %r4, %r10
  sub %r4, %r2
  ja go
go:
  stb [%r4-1], 0
  add %r2, 1
  jlt %r2, %r3, again
  exit

=== a jump to itself
! unbounded budget
! refused 0 nothing leads out of it
again:
  ja again

=== a counter without an end
! unbounded budget
! refused 1 nothing leads out of it
  mov %r0, 0
again:
  add %r0, 1
  ja again

=== a wait for the other side
! unbounded budget
! refused 1 a loop starts here that may never end
  mov %r0, 0
again:
  ldxw %r2, [%r1+0]
  jne %r2, 0, again
  exit

=== a wait for the other side that counts, but does not look at the count
! unbounded budget
! refused 1 the program is not seen to end
  mov %r0, 0
again:
  add %r0, 1
  ldxw %r2, [%r1+0]
  jne %r2, 0, again
  exit

=== a bound that is read again in each round, and nothing that counts
! unbounded budget
! refused 1 a loop starts here that may never end
  mov %r0, 0
again:
  ldxw %r2, [%r1+0]
  jlt %r0, %r2, again
  exit

=== a counter that the other side can set
! unbounded budget
! refused 1 a loop starts here that may never end
  stw [%r1+0], 10
again:
  ldxw %r0, [%r1+0]
  add %r0, -1
  stxw [%r1+0], %r0
  jne %r0, 0, again
  exit

=== a step that may be zero
! unbounded budget
! refused 2 a loop starts here that may never end
  mov %r0, 0
  ldxb %r2, [%r1+0]
again:
  add %r0, %r2
  jlt %r0, 100, again
  exit

=== a counter that starts anew
! unbounded budget
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

=== a loop entered in two places
! unbounded budget
! refused 4 the program is not seen to end
  mov %r0, 0
  ldxw %r2, [%r1+0]
  jeq %r2, 0, b
a:
  add %r0, 1
b:
  jlt %r0, %r2, a
  exit
