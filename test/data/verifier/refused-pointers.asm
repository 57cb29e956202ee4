# Numbers as addresses, pointers as numbers, pointers handed out.

=== a constant as an address
! refused 1 it uses r2, which is a number (16), as an address
  mov %r2, 16
  ldxw %r0, [%r2+0]
  exit

=== a number from the context as an address
! refused 1 it uses r2, which is a number (any number), as an address
  ldxdw %r2, [%r1+0]
  ldxw %r0, [%r2+0]
  exit

=== a store to a number from the context
! refused 1 as an address
  ldxdw %r2, [%r1+8]
  stdw [%r2+0], 1
  mov %r0, 0
  exit

=== one past the extra region
! refused 1 as an address
  mov %r2, 0xc000
  ldxw %r0, [%r2+21]
  exit

=== an extra region with an index that is not bounded
! refused 3 as an address
  mov %r2, 0xc000
  ldxb %r3, [%r1+0]
  add %r2, %r3
  ldxb %r0, [%r2+0]
  exit

=== the context's address returned
! refused 1 it returns a pointer, r0 = context+0
  mov %r0, %r1
  exit

=== the stack's address returned
! refused 1 it returns a pointer, r0 = frame 0+0
  mov %r0, %r10
  exit

=== the context's address stored in the context
! refused 0 it stores a pointer, r1 (context+0), where others can read it
  stxdw [%r1+0], %r1
  mov %r0, 0
  exit

=== the stack's address stored in the context
! refused 0 r10 (frame 0+0), where others can read it
  stxdw [%r1+8], %r10
  mov %r0, 0
  exit

=== the low half of a pointer stored in the context
! refused 0 where others can read it
  stxw [%r1+8], %r1
  mov %r0, 0
  exit

=== a pointer stored in an extra region
! refused 1 where others can read it
  mov %r2, 0xc000
  stxdw [%r2+0], %r1
  mov %r0, 0
  exit

=== a pointer added to the context atomically
! refused 0 it stores with an atomic instruction r1, which is a pointer
  lock add [%r1+0], %r1
  mov %r0, 0
  exit

=== a pointer exchanged into the context
! refused 1 which is a pointer
  mov %r2, %r10
  lock xchg [%r1+0], %r2
  mov %r0, 0
  exit

=== a pointer compared and exchanged
! refused 2 it compares with r0, which is a pointer
  mov %r0, %r1
  mov %r2, 1
  lock cmpxchg [%r1+0], %r2
  mov %r0, 0
  exit

=== the low half of a pointer kept on the stack
! refused 0 it stores a part of a pointer
  stxw [%r10-8], %r1
  mov %r0, 0
  exit

=== a part of a pointer read from the stack
! refused 1 holds a pointer, of which only a part is read
  stxdw [%r10-8], %r1
  ldxw %r0, [%r10-8]
  exit

=== what is left of a pointer that is partly overwritten
! refused 3 loaded from a place on the stack that nothing has set
  stxdw [%r10-8], %r1
  stb [%r10-8], 0
  ldxdw %r0, [%r10-8]
  exit

=== a pointer stored at an offset that is not constant
! refused 5 at an offset that is not constant
  ldxb %r2, [%r1+0]
  and %r2, 8
  mov %r3, %r10
  add %r3, -16
  add %r3, %r2
  stxdw [%r3+0], %r1
  mov %r0, 0
  exit

=== a pointer that a store may have hit
! refused 9 it reads r4, which was loaded from a place
  stxdw [%r10-16], %r1
  stdw [%r10-8], 0
  ldxb %r2, [%r1+0]
  and %r2, 8
  mov %r3, %r10
  add %r3, -16
  add %r3, %r2
  stdw [%r3+0], 0
  ldxdw %r4, [%r10-16]
  ldxw %r0, [%r4+0]
  exit

=== a pointer on the stack changed atomically
! refused 2 it updates a pointer on the stack
  stxdw [%r10-8], %r1
  mov %r2, 8
  lock add [%r10-8], %r2
  mov %r0, 0
  exit

=== two pointers added
! refused 1 it computes with a pointer (context+0 and frame 0+0)
  mov %r2, %r1
  add %r2, %r10
  mov %r0, 0
  exit

=== a pointer subtracted from a number
! refused 1 it computes with a pointer
  mov %r0, 8
  sub %r0, %r1
  exit

=== pointers into different memory subtracted
! refused 1 it computes with a pointer
  mov %r0, %r1
  sub %r0, %r10
  exit

=== a pointer multiplied
! refused 1 it computes with a pointer
  mov %r0, %r1
  mul %r0, 2
  exit

=== a pointer masked
! refused 1 it computes with a pointer
  mov %r2, %r10
  and %r2, -16
  mov %r0, 0
  exit

=== a pointer shifted
! refused 1 it computes with a pointer
  mov %r0, %r1
  rsh %r0, 3
  exit

=== a pointer negated
! refused 1 it negates r0, which is a pointer
  mov %r0, %r1
  neg %r0
  exit

=== the bytes of a pointer swapped
! refused 1 it reorders the bytes of r0
  mov %r0, %r1
  be64 %r0
  exit

=== the low half of a pointer moved
! refused 0 it takes a part of r1
  mov32 %r0, %r1
  exit

=== 32-bit arithmetic on a pointer
! refused 1 it computes with the low half of r0
  mov %r0, %r1
  add32 %r0, 1
  exit

=== 32-bit arithmetic with a pointer
! refused 1 it computes with the low half of r1
  mov %r0, 1
  add32 %r0, %r1
  exit

=== a pointer sign-extended
! refused 0 it takes a part of r1
  movsx3264 %r0, %r1
  exit

=== a pointer compared with a number
! refused 1 it compares context+0 with 4096
  mov %r0, 0
  jgt %r1, 4096, +0
  exit

=== pointers into different memory compared
! refused 1 it compares context+0 with frame 0+0
  mov %r0, 0
  jgt %r1, %r10, +0
  exit

=== the low halves of pointers compared
! refused 1 it compares
  mov %r0, 0
  jeq32 %r1, %r1, +0
  exit

=== a pointer that came back from the context
! refused 2 as an address
  mov %r0, 0
  ldxdw %r2, [%r1+0]
  stdw [%r2+0], 0
  exit

=== the stack's address mapped for the device
! context 4096
! refused 7 passes to rx_buf_dma_map as argument 2 r2, which is a pointer (frame 0 + any number)
  mov %r6, %r1
  ldxdw %r3, [%r1+2096]
  mov %r2, %r10
  add %r2, %r3
  mov %r3, 1
  mov %r4, %r10
  add %r4, -8
  call helper 0x4b8f0005
  ldxdw %r2, [%r10-8]
  stxdw [%r6+2104], %r2
  mov %r0, 0
  exit

=== the context's address mapped for the device
! context 4096
! refused 4 passes to tx_buf_dma_map as argument 2 r2, which is a pointer (context+2096)
  mov %r2, %r1
  add %r2, 2096
  mov %r4, %r10
  add %r4, -8
  call helper 0x4b8f0007
  mov %r0, 0
  exit

=== a pointer as a length
! context 4096
! refused 4 passes to rx_buf_dma_map as argument 3 r3, which is a pointer (frame 0+0)
  mov %r2, 0
  mov %r3, %r10
  mov %r4, %r10
  add %r4, -8
  call helper 0x4b8f0005
  mov %r0, 0
  exit

=== a pointer as a packet's metadata
! refused 2 passes to pkt_meta_set as argument 2 r2, which is a pointer (frame 0+0)
  mov %r2, %r10
  mov %r3, 0
  call helper 0x4b8f0042
  exit

=== a pointer as a packet's mark
! refused 2 passes to pkt_meta_set as argument 3 r3, which is a pointer (context+0)
  mov %r2, 0
  mov %r3, %r1
  call helper 0x4b8f0042
  exit

=== a pointer as the place of a checksum
! refused 2 passes to pkt_l4_csum_md_set as argument 2 r2
  mov %r2, %r1
  mov %r3, 0
  call helper 0x4b8f0002
  exit

=== a pointer printed
! refused 2 passes to print_num as argument 2 r2, which is a pointer (context+0)
  mov %r2, %r1
  mov %r1, 0
  call helper 0x4b8f000a
  mov %r0, 0
  exit

=== a pointer from the stack as a number
! refused 3 passes to mix as argument 2 r2, which is a pointer
  stxdw [%r10-8], %r1
  ldxdw %r2, [%r10-8]
  add %r2, 8
  call 5
  exit

=== a pointer as a number, to a helper that is named by a register
! refused 2 passes to mix as argument 2 r2
  mov %r2, %r1
  mov %r6, 5
  callx %r6
  exit

=== bits of an address tested
! refused 1 it compares frame 0+0 with frame 0+0
  mov %r0, 0
  jset %r10, %r10, +0
  exit

=== bits of an address tested by another one
! refused 3 it compares context+8 with context+0
  mov %r0, 0
  mov %r2, %r1
  add %r2, 8
  jset %r2, %r1, +0
  exit

=== an address compared with one that a number from the context may have wrapped
! refused 4 it compares context + any number with context+0
  ldxdw %r2, [%r1+0]
  mov %r0, 0
  mov %r3, %r1
  add %r3, %r2
  jgt %r3, %r1, +0
  exit

=== an address compared with one that may lie below 0
! refused 3 it compares context-4096 with context+0
  mov %r0, 0
  mov %r2, %r1
  add %r2, -4096
  jlt %r2, %r1, +0
  exit

=== an address that may be anything compared with 0
! refused 3 it compares context + any number with 0
  ldxdw %r2, [%r1+0]
  mov %r0, 0
  add %r1, %r2
  jeq %r1, 0, +0
  exit
