# Code that clang made of compiled.c: -O2 with -mcpu=v1 and -mcpu=v3, and -O1. See README.md.

=== O2-v1/packed_txp
! context 8752
! accepted 16 18 23 25 27 28 29 30
  mov %r6, %r1
  lddw %r0, 0xffffffff
  ldxw %r1, [%r6+16]
  jne %r1, 1, l77
  mov %r1, %r6
  add %r1, 2096
  ldxh %r7, [%r6+2098]
  mov %r3, %r7
  lsh %r3, 4
  mov %r2, %r1
  add %r2, %r3
  ldxh %r3, [%r6+2104]
  ldxh %r4, [%r6+2096]
  ldxdw %r5, [%r6+2224]
  ldxdw %r0, [%r6+56]
  stxdw [%r2+320], %r0
  ldxw %r0, [%r6+72]
  stxw [%r2+328], %r0
  add %r1, %r5
  mov %r5, %r4
  lsh %r5, 4
  add %r1, %r5
  stxh [%r2+332], %r4
  ldxdw %r5, [%r6+48]
  stxh [%r1+14], %r4
  mov %r4, 0x10001
  stxw [%r1+8], %r4
  stxdw [%r1+0], %r5
  stxh [%r2+334], %r3
  ldxh %r1, [%r1+12]
  stxh [%r6+2096], %r1
  mov %r8, %r7
  add %r8, 1
  mov %r1, %r8
  and %r1, 65535
  ldxw %r2, [%r6+2232]
  jgt %r2, %r1, l45
  ldxb %r1, [%r6+2102]
  xor %r1, 1
  stxb [%r6+2102], %r1
  ldxh %r1, [%r6+2104]
  xor %r1, 32896
  stxh [%r6+2104], %r1
  mov %r8, 0
l45:
  stxh [%r6+2098], %r8
  call helper 0x4b8f0009
  ldxw %r2, [%r6+2352]
  lddw %r1, 0xffff0000
  mov %r3, %r2
  and %r3, %r1
  jeq %r3, 0x20000, l57
  mov %r1, 1
  mov %r3, 0x10000
  jgt %r3, %r2, l74
  ja l73
l57:
  mov %r1, %r2
  and %r1, 32767
  ldxb %r3, [%r6+2102]
  rsh %r2, 15
  and %r2, 1
  jeq %r2, %r3, l65
  ldxw %r2, [%r6+2232]
  sub %r1, %r2
l65:
  xor %r1, -1
  mov %r2, %r8
  add %r2, %r1
  sub %r8, %r7
  and %r8, 65535
  and %r2, 65535
  mov %r1, 1
  jgt %r8, %r2, l74
l73:
  mov %r1, 0
l74:
  and %r1, 1
  stxw [%r6+24], %r1
  mov %r0, 0
l77:
  exit

=== O2-v1/packed_rxp
! context 8752
! accepted 30 32 39 41 43 44 46 47
  mov %r6, %r1
  lddw %r0, 0xffffffff
  ldxw %r1, [%r6+16]
  jgt %r1, 64, l94
  ldxh %r8, [%r6+2098]
  stxdw [%r10-16], %r8
  jeq %r1, 0, l62
  mov %r2, %r6
  add %r2, 2096
  stxdw [%r10-8], %r2
  mov %r3, 0
  mov %r4, %r6
  add %r4, 72
  ldxh %r0, [%r6+2096]
  ldxdw %r8, [%r10-16]
  ja l22
l17:
  stxh [%r6+2098], %r8
  add %r4, 32
  add %r3, 1
  jgt %r1, %r3, l22
  ja l62
l22:
  mov %r7, %r8
  and %r7, 65535
  lsh %r7, 4
  ldxdw %r9, [%r10-8]
  add %r9, %r7
  ldxh %r7, [%r6+2104]
  ldxdw %r5, [%r6+2224]
  ldxdw %r2, [%r4-16]
  stxdw [%r9+320], %r2
  ldxw %r2, [%r4+0]
  stxw [%r9+328], %r2
  mov %r2, %r6
  add %r2, 2096
  add %r2, %r5
  mov %r5, %r0
  lsh %r5, 4
  add %r2, %r5
  stxh [%r9+332], %r0
  ldxdw %r5, [%r4-24]
  stxh [%r2+14], %r0
  mov %r0, 0x10001
  stxw [%r2+8], %r0
  stxdw [%r2+0], %r5
  or %r7, 2
  stxh [%r9+334], %r7
  ldxh %r0, [%r2+12]
  stxh [%r6+2096], %r0
  add %r8, 1
  mov %r2, %r8
  and %r2, 65535
  ldxw %r5, [%r6+2232]
  jgt %r5, %r2, l17
  ldxb %r2, [%r6+2102]
  xor %r2, 1
  stxb [%r6+2102], %r2
  ldxh %r2, [%r6+2104]
  xor %r2, 32896
  stxh [%r6+2104], %r2
  mov %r8, 0
  ja l17
l62:
  call helper 0x4b8f0009
  ldxw %r2, [%r6+2352]
  lddw %r1, 0xffff0000
  mov %r3, %r2
  and %r3, %r1
  jeq %r3, 0x20000, l73
  mov %r1, 1
  mov %r3, 0x10000
  jgt %r3, %r2, l91
  ja l90
l73:
  mov %r1, %r2
  and %r1, 32767
  ldxb %r3, [%r6+2102]
  rsh %r2, 15
  and %r2, 1
  jeq %r2, %r3, l81
  ldxw %r2, [%r6+2232]
  sub %r1, %r2
l81:
  xor %r1, -1
  mov %r2, %r8
  add %r2, %r1
  ldxdw %r1, [%r10-16]
  sub %r8, %r1
  and %r8, 65535
  and %r2, 65535
  mov %r1, 1
  jgt %r8, %r2, l91
l90:
  mov %r1, 0
l91:
  and %r1, 1
  stxw [%r6+24], %r1
  mov %r0, 0
l94:
  exit

=== O2-v1/packed_rxc
! context 8752
! accepted 8 22 32 36 41 46 48
  mov %r0, 0
  mov %r4, %r1
  add %r4, 2096
  ldxh %r2, [%r1+2100]
  mov %r3, %r2
  lsh %r3, 4
  mov %r5, %r4
  add %r5, %r3
  ldxh %r3, [%r5+334]
  mov %r5, %r3
  rsh %r5, 7
  and %r5, 1
  rsh %r3, 15
  jne %r5, %r3, l64
  ldxb %r3, [%r1+2103]
  jne %r5, %r3, l64
  mov %r5, %r2
  lsh %r5, 4
  mov %r6, %r4
  add %r6, %r5
  lddw %r0, 0xffffffff
  ldxh %r6, [%r6+332]
  ldxw %r5, [%r1+2232]
  jge %r6, %r5, l64
  ldxdw %r7, [%r1+2224]
  mov %r8, %r1
  add %r8, %r7
  add %r8, 2096
  mov %r7, %r6
  lsh %r7, 4
  add %r8, %r7
  ldxh %r7, [%r8+8]
  jeq %r7, 0, l64
  mov %r0, %r8
  add %r0, 8
  ldxdw %r7, [%r8+0]
  stxdw [%r1+48], %r7
  mov %r7, %r2
  lsh %r7, 4
  add %r4, %r7
  ldxw %r4, [%r4+328]
  mov %r7, 1
  stxw [%r1+16], %r7
  stxw [%r1+72], %r4
  mov %r7, 0
  stxh [%r0+0], %r7
  ldxh %r4, [%r1+2096]
  stxh [%r8+12], %r4
  stxh [%r1+2096], %r6
  add %r2, 1
  mov %r4, %r2
  and %r4, 65535
  jgt %r5, %r4, l57
  xor %r3, 1
  stxb [%r1+2103], %r3
  mov %r2, 0
l57:
  stxh [%r1+2100], %r2
  call helper 0x4b8f0000
  mov %r1, %r0
  lsh %r1, 32
  arsh %r1, 32
  jsgt %r7, %r1, l64
  mov %r0, 1
l64:
  exit

=== O2-v1/packed_rxr
! context 8752
! accepted 21 23 30 31
  ldxw %r3, [%r1+2232]
  mov %r2, 0
  jeq %r3, 0, l34
  mov %r4, 0
  mov %r5, 64
  mov %r0, %r1
  mov %r6, 0
  mov %r2, 0
  ja l18
l9:
  jgt %r6, 254, l34
  add %r6, 1
  jge %r6, %r3, l34
  add %r0, 16
  mov %r7, %r2
  lsh %r7, 32
  rsh %r7, 32
  jgt %r5, %r7, l18
  ja l34
l18:
  ldxdw %r8, [%r1+2224]
  mov %r7, %r0
  add %r7, %r8
  ldxh %r8, [%r7+2104]
  jeq %r8, 0, l9
  stxh [%r7+2104], %r4
  mov %r8, %r2
  lsh %r8, 32
  rsh %r8, 32
  lsh %r8, 5
  mov %r9, %r1
  add %r9, %r8
  ldxdw %r7, [%r7+2096]
  stxdw [%r9+48], %r7
  add %r2, 1
  ja l9
l34:
  stxw [%r1+16], %r2
  lsh %r2, 32
  rsh %r2, 32
  mov %r0, 1
  jne %r2, 0, l40
  mov %r0, 0
l40:
  exit

=== O2-v1/gso_txp
! context 8752
! accepted 25 27 29 30 42 46 49 50 53 55 57 58
  mov %r6, %r1
  lddw %r0, 0xffffffff
  ldxw %r7, [%r6+2096]
  ldxw %r1, [%r6+2352]
  ldxw %r2, [%r6+16]
  jeq %r2, 0, l67
  jgt %r2, 64, l67
  mov %r8, 0
  jeq %r2, 0, l35
  mov %r3, 0
  mov %r4, %r6
  add %r4, 72
  mov %r5, %r6
  add %r5, 2608
  mov %r0, 0
l16:
  mov %r9, %r7
  add %r9, %r0
  and %r9, %r1
  lsh %r9, 32
  rsh %r9, 32
  lsh %r9, 5
  mov %r8, %r5
  add %r8, %r9
  ldxdw %r9, [%r4-24]
  stxdw [%r8+0], %r9
  ldxdw %r9, [%r4-16]
  stxdw [%r8+8], %r9
  ldxw %r9, [%r4+0]
  stxh [%r8+18], %r3
  stxh [%r8+16], %r9
  add %r4, 32
  add %r0, 1
  jgt %r2, %r0, l16
  add %r7, %r0
l35:
  mov %r2, %r10
  add %r2, -16
  mov %r1, %r6
  call helper 0x4b8f0003
  lsh %r0, 32
  rsh %r0, 32
  jne %r0, 0, l45
  ldxh %r1, [%r8+18]
  or %r1, 1
  ja l52
l45:
  ldxh %r1, [%r10-10]
  stxh [%r8+20], %r1
  ldxh %r1, [%r10-8]
  mov %r2, 2
  stxh [%r8+18], %r2
  stxh [%r8+22], %r1
  mov %r1, 3
l52:
  ldxh %r2, [%r10-14]
  stxh [%r8+24], %r2
  ldxh %r2, [%r10-12]
  stxh [%r8+26], %r2
  ldxb %r2, [%r10-15]
  stxh [%r8+18], %r1
  stxh [%r8+28], %r2
  stxw [%r6+2096], %r7
  call helper 0x4b8f0009
  mov %r0, 0
  mov %r1, 1
  ldxw %r2, [%r6+2228]
  jne %r2, 0, l66
  mov %r1, 0
l66:
  stxw [%r6+24], %r1
l67:
  exit

=== O2-v1/gso_rxc
! context 8752
! accepted 26 27 29 31 50 52 54 56 58
  mov %r0, 0
  ldxw %r2, [%r1+2480]
  ldxw %r3, [%r1+2224]
  stxdw [%r10-24], %r1
  ldxw %r1, [%r1+2352]
  jeq %r2, %r3, l75
  mov %r5, 1
  sub %r5, %r3
  lsh %r5, 32
  rsh %r5, 32
  mov %r4, %r2
  add %r4, %r5
  mov %r3, 0
  ldxdw %r7, [%r10-24]
  mov %r5, %r7
  add %r5, 72
  add %r7, 2608
l17:
  mov %r0, %r2
  add %r0, %r3
  mov %r9, %r0
  and %r9, %r1
  lsh %r9, 32
  rsh %r9, 32
  lsh %r9, 5
  mov %r8, %r7
  add %r8, %r9
  ldxh %r9, [%r8+18]
  ldxdw %r6, [%r8+0]
  stxdw [%r5-24], %r6
  ldxdw %r6, [%r8+8]
  stxdw [%r5-16], %r6
  ldxh %r6, [%r8+16]
  stxw [%r5+0], %r6
  mov %r6, %r9
  and %r6, 1
  jne %r6, 0, l47
  lddw %r0, 0xffffffff
  jgt %r3, 62, l75
  mov %r6, %r4
  add %r6, %r3
  add %r3, 1
  add %r5, 32
  lsh %r6, 32
  rsh %r6, 32
  jeq %r6, 0, l75
  ja l17
l47:
  rsh %r9, 1
  and %r9, 1
  stxb [%r10-16], %r9
  ldxh %r2, [%r8+20]
  stxh [%r10-10], %r2
  ldxh %r2, [%r8+22]
  stxh [%r10-8], %r2
  ldxh %r2, [%r8+24]
  stxh [%r10-14], %r2
  ldxh %r2, [%r8+26]
  stxh [%r10-12], %r2
  ldxh %r2, [%r8+28]
  stxb [%r10-15], %r2
  add %r0, 1
  ldxdw %r1, [%r10-24]
  stxw [%r1+2480], %r0
  add %r3, 1
  stxw [%r1+16], %r3
  call helper 0x4b8f0000
  lsh %r0, 32
  arsh %r0, 32
  mov %r1, 0
  jsgt %r1, %r0, l75
  mov %r2, %r10
  add %r2, -16
  ldxdw %r1, [%r10-24]
  call helper 0x4b8f0004
  mov %r0, 1
l75:
  exit

=== O2-v1/bounce_txh
! context 8752
! accepted
  mov %r6, %r1
  mov %r7, 0
  ldxw %r8, [%r6+16]
  lsh %r8, 5
  ja l21
l5:
  mov %r9, %r6
  add %r9, %r7
  ldxw %r3, [%r9+72]
  ldxdw %r2, [%r9+64]
  mov %r4, %r10
  add %r4, -8
  mov %r1, %r6
  call helper 0x4b8f0007
  lsh %r0, 32
  rsh %r0, 32
  jne %r0, 0, l24
  ldxdw %r1, [%r10-8]
  stxdw [%r9+56], %r1
  mov %r0, 0
  add %r7, 32
  jeq %r7, 2048, l26
l21:
  jne %r8, %r7, l5
  mov %r0, 0
  ja l26
l24:
  lddw %r0, 0xffffffff
l26:
  exit

=== O2-v1/print_txh
! context 8752
! accepted
  mov %r2, 0x73667562
  stxw [%r10-8], %r2
  mov %r2, 0
  stxb [%r10-4], %r2
  ldxw %r2, [%r1+16]
  mov %r1, %r10
  add %r1, -8
  call helper 0x4b8f000a
  mov %r0, 0
  exit

=== O2-v1/sum_rxh
! context 8752
! accepted
  ldxw %r2, [%r1+16]
  add %r1, 48
  call local l8
  mov %r1, %r0
  mov %r0, 1
  jgt %r1, 0x10000, l7
  mov %r0, 0
l7:
  exit
l8:
  mov %r0, 0
  lsh %r2, 32
  rsh %r2, 32
  jeq %r2, 0, l21
  mov %r3, 0
  add %r1, 24
  mov %r0, 0
l15:
  ldxw %r4, [%r1+0]
  add %r0, %r4
  jgt %r3, 62, l21
  add %r1, 32
  add %r3, 1
  jgt %r2, %r3, l15
l21:
  exit

=== O2-v1/bubble_rxh
! context 8752
! accepted
  ldxw %r2, [%r1+72]
  stxw [%r10-4], %r2
  ldxw %r2, [%r1+104]
  stxw [%r10-8], %r2
  ldxw %r2, [%r1+136]
  stxw [%r10-12], %r2
  ldxw %r2, [%r1+168]
  stxw [%r10-16], %r2
  ldxw %r2, [%r1+200]
  stxw [%r10-20], %r2
  ldxw %r2, [%r1+232]
  stxw [%r10-24], %r2
  ldxw %r2, [%r1+264]
  stxw [%r10-28], %r2
  ldxw %r1, [%r1+296]
  stxw [%r10-32], %r1
  mov %r1, 7
  ja l23
l18:
  add %r1, -1
  mov %r2, %r1
  lsh %r2, 32
  rsh %r2, 32
  jeq %r2, 0, l60
l23:
  ldxw %r2, [%r10-4]
  ldxw %r3, [%r10-8]
  jgt %r2, %r3, l27
  ja l29
l27:
  stxw [%r10-4], %r3
  stxw [%r10-8], %r2
l29:
  ldxw %r2, [%r10-8]
  ldxw %r3, [%r10-12]
  jge %r3, %r2, l34
  stxw [%r10-8], %r3
  stxw [%r10-12], %r2
l34:
  ldxw %r2, [%r10-12]
  ldxw %r3, [%r10-16]
  jge %r3, %r2, l39
  stxw [%r10-12], %r3
  stxw [%r10-16], %r2
l39:
  ldxw %r2, [%r10-16]
  ldxw %r3, [%r10-20]
  jge %r3, %r2, l44
  stxw [%r10-16], %r3
  stxw [%r10-20], %r2
l44:
  ldxw %r2, [%r10-20]
  ldxw %r3, [%r10-24]
  jge %r3, %r2, l49
  stxw [%r10-20], %r3
  stxw [%r10-24], %r2
l49:
  ldxw %r2, [%r10-24]
  ldxw %r3, [%r10-28]
  jge %r3, %r2, l54
  stxw [%r10-24], %r3
  stxw [%r10-28], %r2
l54:
  ldxw %r2, [%r10-28]
  ldxw %r3, [%r10-32]
  jge %r3, %r2, l18
  stxw [%r10-28], %r3
  stxw [%r10-32], %r2
  ja l18
l60:
  ldxw %r1, [%r10-4]
  mov %r0, 1
  ldxw %r2, [%r10-32]
  jgt %r2, %r1, l65
  mov %r0, 0
l65:
  exit

=== O2-v3/packed_txp
! context 8752
! accepted 15 17 22 24 26 27 28 29
  mov %r6, %r1
  mov32 %r0, -1
  ldxw %r1, [%r6+16]
  jne32 %r1, 1, l73
  mov %r1, %r6
  add %r1, 2096
  ldxh %r7, [%r6+2098]
  mov %r3, %r7
  lsh %r3, 4
  mov %r2, %r1
  add %r2, %r3
  ldxh %r3, [%r6+2096]
  ldxh %r4, [%r6+2104]
  ldxdw %r5, [%r6+2224]
  ldxdw %r0, [%r6+56]
  stxdw [%r2+320], %r0
  ldxw %r0, [%r6+72]
  stxw [%r2+328], %r0
  add %r1, %r5
  mov %r5, %r3
  lsh %r5, 4
  add %r1, %r5
  stxh [%r2+332], %r3
  ldxdw %r5, [%r6+48]
  stxh [%r1+14], %r3
  mov32 %r3, 0x10001
  stxw [%r1+8], %r3
  stxdw [%r1+0], %r5
  stxh [%r2+334], %r4
  ldxh %r1, [%r1+12]
  stxh [%r6+2096], %r1
  mov32 %r8, %r7
  add32 %r8, 1
  mov32 %r1, %r8
  and32 %r1, 65535
  ldxw %r2, [%r6+2232]
  jgt32 %r2, %r1, l44
  ldxb %r1, [%r6+2102]
  xor32 %r1, 1
  stxb [%r6+2102], %r1
  ldxh %r1, [%r6+2104]
  xor32 %r1, 32896
  stxh [%r6+2104], %r1
  mov32 %r8, 0
l44:
  stxh [%r6+2098], %r8
  call helper 0x4b8f0009
  ldxw %r2, [%r6+2352]
  mov32 %r1, %r2
  and32 %r1, 0xffff0000
  jeq32 %r1, 0x20000, l53
  mov32 %r1, 1
  jlt32 %r2, 0x10000, l70
  ja l69
l53:
  mov32 %r1, %r2
  and32 %r1, 32767
  ldxb %r3, [%r6+2102]
  rsh32 %r2, 15
  and32 %r2, 1
  jeq32 %r2, %r3, l61
  ldxw %r2, [%r6+2232]
  sub32 %r1, %r2
l61:
  xor32 %r1, -1
  mov32 %r2, %r8
  add32 %r2, %r1
  sub32 %r8, %r7
  and32 %r8, 65535
  and32 %r2, 65535
  mov32 %r1, 1
  jlt32 %r2, %r8, l70
l69:
  mov32 %r1, 0
l70:
  and32 %r1, 1
  stxw [%r6+24], %r1
  mov32 %r0, 0
l73:
  exit

=== O2-v3/packed_rxp
! context 8752
! accepted 31 33 41 43 45 46 48 49
  mov %r6, %r1
  mov32 %r0, -1
  ldxw %r1, [%r6+16]
  jgt32 %r1, 64, l93
  ldxh %r2, [%r6+2098]
  stxw [%r10-16], %r2
  mov32 %r8, %r2
  jeq32 %r1, 0, l64
  mov %r2, %r6
  add %r2, 2096
  stxdw [%r10-8], %r2
  mov %r3, 0
  mov %r4, %r6
  add %r4, 72
  ldxh %r0, [%r6+2096]
  ldxw %r2, [%r10-16]
  mov32 %r8, %r2
  ja l23
l18:
  stxh [%r6+2098], %r8
  add %r4, 32
  add %r3, 1
  jlt %r3, %r1, l23
  ja l64
l23:
  mov %r7, %r8
  and %r7, 65535
  lsh %r7, 4
  ldxdw %r9, [%r10-8]
  add %r9, %r7
  ldxh %r7, [%r6+2104]
  ldxdw %r5, [%r6+2224]
  ldxdw %r2, [%r4-16]
  stxdw [%r9+320], %r2
  ldxw %r2, [%r4+0]
  stxw [%r9+328], %r2
  mov %r2, %r6
  add %r2, 2096
  add %r2, %r5
  mov %r5, %r0
  and %r5, 65535
  lsh %r5, 4
  add %r2, %r5
  stxh [%r9+332], %r0
  ldxdw %r5, [%r4-24]
  stxh [%r2+14], %r0
  mov32 %r0, 0x10001
  stxw [%r2+8], %r0
  stxdw [%r2+0], %r5
  or32 %r7, 2
  stxh [%r9+334], %r7
  ldxh %r0, [%r2+12]
  stxh [%r6+2096], %r0
  add32 %r8, 1
  mov32 %r2, %r8
  and32 %r2, 65535
  ldxw %r5, [%r6+2232]
  jgt32 %r5, %r2, l18
  ldxb %r2, [%r6+2102]
  xor32 %r2, 1
  stxb [%r6+2102], %r2
  ldxh %r2, [%r6+2104]
  xor32 %r2, 32896
  stxh [%r6+2104], %r2
  mov32 %r8, 0
  ja l18
l64:
  call helper 0x4b8f0009
  ldxw %r2, [%r6+2352]
  mov32 %r1, %r2
  and32 %r1, 0xffff0000
  jeq32 %r1, 0x20000, l72
  mov32 %r1, 1
  jlt32 %r2, 0x10000, l90
  ja l89
l72:
  mov32 %r1, %r2
  and32 %r1, 32767
  ldxb %r3, [%r6+2102]
  rsh32 %r2, 15
  and32 %r2, 1
  jeq32 %r2, %r3, l80
  ldxw %r2, [%r6+2232]
  sub32 %r1, %r2
l80:
  xor32 %r1, -1
  mov32 %r2, %r8
  add32 %r2, %r1
  ldxw %r1, [%r10-16]
  sub32 %r8, %r1
  and32 %r8, 65535
  and32 %r2, 65535
  mov32 %r1, 1
  jlt32 %r2, %r8, l90
l89:
  mov32 %r1, 0
l90:
  and32 %r1, 1
  stxw [%r6+24], %r1
  mov32 %r0, 0
l93:
  exit

=== O2-v3/packed_rxc
! context 8752
! accepted 8 21 31 35 40 45 47
  mov32 %r0, 0
  mov %r4, %r1
  add %r4, 2096
  ldxh %r2, [%r1+2100]
  mov %r3, %r2
  lsh %r3, 4
  mov %r5, %r4
  add %r5, %r3
  ldxh %r3, [%r5+334]
  mov32 %r5, %r3
  rsh32 %r5, 7
  and32 %r5, 1
  rsh32 %r3, 15
  jne32 %r5, %r3, l60
  ldxb %r3, [%r1+2103]
  jne32 %r5, %r3, l60
  mov %r5, %r2
  lsh %r5, 4
  mov %r6, %r4
  add %r6, %r5
  mov32 %r0, -1
  ldxh %r6, [%r6+332]
  ldxw %r5, [%r1+2232]
  jle32 %r5, %r6, l60
  ldxdw %r8, [%r1+2224]
  mov %r7, %r1
  add %r7, %r8
  add %r7, 2096
  mov %r8, %r6
  lsh %r8, 4
  add %r7, %r8
  ldxh %r8, [%r7+8]
  jeq32 %r8, 0, l60
  mov %r0, %r7
  add %r0, 8
  ldxdw %r8, [%r7+0]
  stxdw [%r1+48], %r8
  mov %r8, %r2
  lsh %r8, 4
  add %r4, %r8
  ldxw %r4, [%r4+328]
  mov32 %r8, 1
  stxw [%r1+16], %r8
  stxw [%r1+72], %r4
  mov32 %r4, 0
  stxh [%r0+0], %r4
  ldxh %r4, [%r1+2096]
  stxh [%r7+12], %r4
  stxh [%r1+2096], %r6
  add32 %r2, 1
  mov32 %r4, %r2
  and32 %r4, 65535
  jgt32 %r5, %r4, l56
  xor32 %r3, 1
  stxb [%r1+2103], %r3
  mov32 %r2, 0
l56:
  stxh [%r1+2100], %r2
  call helper 0x4b8f0000
  jslt32 %r0, 0, l60
  mov32 %r0, 1
l60:
  exit

=== O2-v3/packed_rxr
! context 8752
! accepted 17 19 24 25
  ldxw %r2, [%r1+2232]
  mov32 %r3, 0
  jeq32 %r2, 0, l28
  mov32 %r4, 0
  mov %r5, 0
  mov %r0, %r1
  mov32 %r3, 0
  ja l14
l8:
  jgt %r5, 254, l28
  add %r5, 1
  jge %r5, %r2, l28
  add %r0, 16
  jlt32 %r3, 64, l14
  ja l28
l14:
  ldxdw %r7, [%r1+2224]
  mov %r6, %r0
  add %r6, %r7
  ldxh %r7, [%r6+2104]
  jeq32 %r7, 0, l8
  stxh [%r6+2104], %r4
  mov32 %r7, %r3
  lsh %r7, 5
  mov %r8, %r1
  add %r8, %r7
  ldxdw %r6, [%r6+2096]
  stxdw [%r8+48], %r6
  add32 %r3, 1
  ja l8
l28:
  stxw [%r1+16], %r3
  mov32 %r0, 1
  jne32 %r3, 0, l32
  mov32 %r0, 0
l32:
  exit

=== O2-v3/gso_txp
! context 8752
! accepted 22 24 26 27 37 41 44 45 48 50 52 53
  mov %r6, %r1
  mov32 %r0, -1
  ldxw %r1, [%r6+16]
  ldxw %r7, [%r6+2096]
  ldxw %r2, [%r6+2352]
  jeq32 %r1, 0, l62
  jgt32 %r1, 64, l62
  mov %r8, 0
  jeq32 %r1, 0, l32
  mov %r3, 0
  mov %r4, %r6
  add %r4, 72
  mov %r5, %r6
  add %r5, 2608
  mov32 %r0, 0
l15:
  mov32 %r9, %r7
  add32 %r9, %r3
  and32 %r9, %r2
  lsh %r9, 5
  mov %r8, %r5
  add %r8, %r9
  ldxdw %r9, [%r4-24]
  stxdw [%r8+0], %r9
  ldxdw %r9, [%r4-16]
  stxdw [%r8+8], %r9
  ldxw %r9, [%r4+0]
  stxh [%r8+18], %r0
  stxh [%r8+16], %r9
  add %r4, 32
  add %r3, 1
  jlt %r3, %r1, l15
  add32 %r7, %r3
l32:
  mov %r2, %r10
  add %r2, -16
  mov %r1, %r6
  call helper 0x4b8f0003
  jne32 %r0, 0, l40
  ldxh %r1, [%r8+18]
  or32 %r1, 1
  ja l47
l40:
  ldxh %r1, [%r10-10]
  stxh [%r8+20], %r1
  ldxh %r1, [%r10-8]
  mov32 %r2, 2
  stxh [%r8+18], %r2
  stxh [%r8+22], %r1
  mov32 %r1, 3
l47:
  ldxh %r2, [%r10-14]
  stxh [%r8+24], %r2
  ldxh %r2, [%r10-12]
  stxh [%r8+26], %r2
  ldxb %r2, [%r10-15]
  stxh [%r8+18], %r1
  stxh [%r8+28], %r2
  stxw [%r6+2096], %r7
  call helper 0x4b8f0009
  mov32 %r0, 0
  mov32 %r1, 1
  ldxw %r2, [%r6+2228]
  jne32 %r2, 0, l61
  mov32 %r1, 0
l61:
  stxw [%r6+24], %r1
l62:
  exit

=== O2-v3/gso_rxc
! context 8752
! accepted 21 22 24 26 42 44 46 48 50
  mov %r6, %r1
  mov32 %r0, 0
  ldxw %r1, [%r6+2480]
  ldxw %r2, [%r6+2224]
  ldxw %r3, [%r6+2352]
  jeq32 %r1, %r2, l65
  mov32 %r5, 1
  sub32 %r5, %r2
  mov %r4, %r1
  add %r4, %r5
  mov %r2, 0
  mov %r5, %r6
  add %r5, 72
  mov %r7, %r6
  add %r7, 2608
l15:
  mov32 %r8, %r1
  add32 %r8, %r2
  and32 %r8, %r3
  lsh %r8, 5
  mov %r0, %r7
  add %r0, %r8
  ldxh %r8, [%r0+18]
  ldxdw %r9, [%r0+0]
  stxdw [%r5-24], %r9
  ldxdw %r9, [%r0+8]
  stxdw [%r5-16], %r9
  ldxh %r9, [%r0+16]
  stxw [%r5+0], %r9
  mov32 %r9, %r8
  and32 %r9, 1
  jne32 %r9, 0, l39
  mov32 %r0, -1
  jgt %r2, 62, l65
  mov %r8, %r4
  add %r8, %r2
  add %r2, 1
  add %r5, 32
  jeq32 %r8, 0, l65
  ja l15
l39:
  rsh32 %r8, 1
  and32 %r8, 1
  stxb [%r10-16], %r8
  ldxh %r3, [%r0+20]
  stxh [%r10-10], %r3
  ldxh %r3, [%r0+22]
  stxh [%r10-8], %r3
  ldxh %r3, [%r0+24]
  stxh [%r10-14], %r3
  ldxh %r3, [%r0+26]
  stxh [%r10-12], %r3
  ldxh %r3, [%r0+28]
  stxb [%r10-15], %r3
  add32 %r1, %r2
  add32 %r1, 1
  stxw [%r6+2480], %r1
  add32 %r2, 1
  stxw [%r6+16], %r2
  mov %r1, %r6
  call helper 0x4b8f0000
  jslt32 %r0, 0, l65
  mov %r2, %r10
  add %r2, -16
  mov %r1, %r6
  call helper 0x4b8f0004
  mov32 %r0, 1
l65:
  exit

=== O2-v3/bounce_txh
! context 8752
! accepted
  mov %r6, %r1
  mov %r7, 0
  ldxw %r8, [%r6+16]
  lsh %r8, 5
  ja l19
l5:
  mov %r9, %r6
  add %r9, %r7
  ldxw %r3, [%r9+72]
  ldxdw %r2, [%r9+64]
  mov %r4, %r10
  add %r4, -8
  mov %r1, %r6
  call helper 0x4b8f0007
  jne32 %r0, 0, l22
  ldxdw %r1, [%r10-8]
  stxdw [%r9+56], %r1
  mov32 %r0, 0
  add %r7, 32
  jeq %r7, 2048, l23
l19:
  jne %r8, %r7, l5
  mov32 %r0, 0
  ja l23
l22:
  mov32 %r0, -1
l23:
  exit

=== O2-v3/print_txh
! context 8752
! accepted
  mov32 %r2, 0x73667562
  stxw [%r10-8], %r2
  mov32 %r2, 0
  stxb [%r10-4], %r2
  ldxw %r2, [%r1+16]
  mov %r1, %r10
  add %r1, -8
  call helper 0x4b8f000a
  mov32 %r0, 0
  exit

=== O2-v3/sum_rxh
! context 8752
! accepted
  ldxw %r2, [%r1+16]
  add %r1, 48
  call local l8
  mov %r1, %r0
  mov32 %r0, 1
  jgt %r1, 0x10000, l7
  mov32 %r0, 0
l7:
  exit
l8:
  mov %r0, 0
  jeq32 %r2, 0, l20
  mov %r3, 0
  add %r1, 24
  mov32 %r2, %r2
  mov %r0, 0
l14:
  ldxw %r4, [%r1+0]
  add %r0, %r4
  jgt %r3, 62, l20
  add %r1, 32
  add %r3, 1
  jlt %r3, %r2, l14
l20:
  exit

=== O2-v3/bubble_rxh
! context 8752
! accepted
  ldxw %r2, [%r1+72]
  stxw [%r10-4], %r2
  ldxw %r2, [%r1+104]
  stxw [%r10-8], %r2
  ldxw %r2, [%r1+136]
  stxw [%r10-12], %r2
  ldxw %r2, [%r1+168]
  stxw [%r10-16], %r2
  ldxw %r2, [%r1+200]
  stxw [%r10-20], %r2
  ldxw %r2, [%r1+232]
  stxw [%r10-24], %r2
  ldxw %r2, [%r1+264]
  stxw [%r10-28], %r2
  ldxw %r1, [%r1+296]
  stxw [%r10-32], %r1
  mov32 %r1, 7
  ja l20
l18:
  add32 %r1, -1
  jeq32 %r1, 0, l57
l20:
  ldxw %r2, [%r10-4]
  ldxw %r3, [%r10-8]
  jgt32 %r2, %r3, l24
  ja l26
l24:
  stxw [%r10-4], %r3
  stxw [%r10-8], %r2
l26:
  ldxw %r2, [%r10-8]
  ldxw %r3, [%r10-12]
  jle32 %r2, %r3, l31
  stxw [%r10-8], %r3
  stxw [%r10-12], %r2
l31:
  ldxw %r2, [%r10-12]
  ldxw %r3, [%r10-16]
  jle32 %r2, %r3, l36
  stxw [%r10-12], %r3
  stxw [%r10-16], %r2
l36:
  ldxw %r2, [%r10-16]
  ldxw %r3, [%r10-20]
  jle32 %r2, %r3, l41
  stxw [%r10-16], %r3
  stxw [%r10-20], %r2
l41:
  ldxw %r2, [%r10-20]
  ldxw %r3, [%r10-24]
  jle32 %r2, %r3, l46
  stxw [%r10-20], %r3
  stxw [%r10-24], %r2
l46:
  ldxw %r2, [%r10-24]
  ldxw %r3, [%r10-28]
  jle32 %r2, %r3, l51
  stxw [%r10-24], %r3
  stxw [%r10-28], %r2
l51:
  ldxw %r2, [%r10-28]
  ldxw %r3, [%r10-32]
  jle32 %r2, %r3, l18
  stxw [%r10-28], %r3
  stxw [%r10-32], %r2
  ja l18
l57:
  ldxw %r1, [%r10-4]
  mov32 %r0, 1
  ldxw %r2, [%r10-32]
  jlt32 %r1, %r2, l62
  mov32 %r0, 0
l62:
  exit

=== O1-v1/packed_txp
! context 8752
! accepted 16 18 23 25 27 28 29 30
  mov %r6, %r1
  lddw %r0, 0xffffffff
  ldxw %r1, [%r6+16]
  jne %r1, 1, l77
  mov %r1, %r6
  add %r1, 2096
  ldxh %r7, [%r6+2098]
  mov %r3, %r7
  lsh %r3, 4
  mov %r2, %r1
  add %r2, %r3
  ldxh %r3, [%r6+2104]
  ldxh %r4, [%r6+2096]
  ldxdw %r5, [%r6+2224]
  ldxdw %r0, [%r6+56]
  stxdw [%r2+320], %r0
  ldxw %r0, [%r6+72]
  stxw [%r2+328], %r0
  add %r1, %r5
  mov %r5, %r4
  lsh %r5, 4
  add %r1, %r5
  stxh [%r2+332], %r4
  ldxdw %r5, [%r6+48]
  stxh [%r1+14], %r4
  mov %r4, 0x10001
  stxw [%r1+8], %r4
  stxdw [%r1+0], %r5
  stxh [%r2+334], %r3
  ldxh %r1, [%r1+12]
  stxh [%r6+2096], %r1
  mov %r8, %r7
  add %r8, 1
  mov %r1, %r8
  and %r1, 65535
  ldxw %r2, [%r6+2232]
  jgt %r2, %r1, l45
  ldxb %r1, [%r6+2102]
  xor %r1, 1
  stxb [%r6+2102], %r1
  ldxh %r1, [%r6+2104]
  xor %r1, 32896
  stxh [%r6+2104], %r1
  mov %r8, 0
l45:
  stxh [%r6+2098], %r8
  call helper 0x4b8f0009
  ldxw %r2, [%r6+2352]
  lddw %r1, 0xffff0000
  mov %r3, %r2
  and %r3, %r1
  jeq %r3, 0x20000, l57
  mov %r1, 1
  mov %r3, 0x10000
  jgt %r3, %r2, l74
  ja l73
l57:
  mov %r1, %r2
  and %r1, 32767
  ldxb %r3, [%r6+2102]
  rsh %r2, 15
  and %r2, 1
  jeq %r2, %r3, l65
  ldxw %r2, [%r6+2232]
  sub %r1, %r2
l65:
  xor %r1, -1
  mov %r2, %r8
  add %r2, %r1
  sub %r8, %r7
  and %r8, 65535
  and %r2, 65535
  mov %r1, 1
  jgt %r8, %r2, l74
l73:
  mov %r1, 0
l74:
  and %r1, 1
  stxw [%r6+24], %r1
  mov %r0, 0
l77:
  exit

=== O1-v1/packed_rxp
! context 8752
! accepted 29 31 38 40 42 43 45 46
  mov %r6, %r1
  lddw %r0, 0xffffffff
  ldxw %r1, [%r6+16]
  jgt %r1, 64, l94
  ldxh %r2, [%r6+2098]
  stxdw [%r10-16], %r2
  jeq %r1, 0, l61
  mov %r2, %r6
  add %r2, 2096
  stxdw [%r10-8], %r2
  mov %r3, 0
  mov %r4, %r6
  add %r4, 72
  ja l20
l15:
  stxh [%r6+2098], %r0
  add %r4, 32
  add %r3, 1
  jgt %r1, %r3, l20
  ja l61
l20:
  ldxh %r0, [%r6+2098]
  mov %r9, %r0
  lsh %r9, 4
  ldxdw %r8, [%r10-8]
  add %r8, %r9
  ldxh %r9, [%r6+2104]
  ldxh %r7, [%r6+2096]
  ldxdw %r5, [%r6+2224]
  ldxdw %r2, [%r4-16]
  stxdw [%r8+320], %r2
  ldxw %r2, [%r4+0]
  stxw [%r8+328], %r2
  mov %r2, %r6
  add %r2, 2096
  add %r2, %r5
  mov %r5, %r7
  lsh %r5, 4
  add %r2, %r5
  stxh [%r8+332], %r7
  ldxdw %r5, [%r4-24]
  stxh [%r2+14], %r7
  mov %r7, 0x10001
  stxw [%r2+8], %r7
  stxdw [%r2+0], %r5
  or %r9, 2
  stxh [%r8+334], %r9
  ldxh %r2, [%r2+12]
  stxh [%r6+2096], %r2
  add %r0, 1
  mov %r2, %r0
  and %r2, 65535
  ldxw %r5, [%r6+2232]
  jgt %r5, %r2, l15
  ldxb %r2, [%r6+2102]
  xor %r2, 1
  stxb [%r6+2102], %r2
  ldxh %r2, [%r6+2104]
  xor %r2, 32896
  stxh [%r6+2104], %r2
  mov %r0, 0
  ja l15
l61:
  ldxh %r8, [%r6+2098]
  call helper 0x4b8f0009
  ldxw %r2, [%r6+2352]
  lddw %r1, 0xffff0000
  mov %r3, %r2
  and %r3, %r1
  jeq %r3, 0x20000, l73
  mov %r1, 1
  mov %r3, 0x10000
  jgt %r3, %r2, l91
  ja l90
l73:
  mov %r1, %r2
  and %r1, 32767
  ldxb %r3, [%r6+2102]
  rsh %r2, 15
  and %r2, 1
  jeq %r2, %r3, l81
  ldxw %r2, [%r6+2232]
  sub %r1, %r2
l81:
  xor %r1, -1
  mov %r2, %r8
  add %r2, %r1
  ldxdw %r1, [%r10-16]
  sub %r8, %r1
  and %r8, 65535
  and %r2, 65535
  mov %r1, 1
  jgt %r8, %r2, l91
l90:
  mov %r1, 0
l91:
  and %r1, 1
  stxw [%r6+24], %r1
  mov %r0, 0
l94:
  exit

=== O1-v1/packed_rxc
! context 8752
! accepted 9 23 33 37 42 47 49
  mov %r0, 0
  mov %r3, 1
  mov %r4, %r1
  add %r4, 2096
  ldxh %r2, [%r1+2100]
  mov %r5, %r2
  lsh %r5, 4
  mov %r6, %r4
  add %r6, %r5
  ldxh %r5, [%r6+334]
  mov %r6, %r5
  rsh %r6, 7
  and %r6, 1
  rsh %r5, 15
  jne %r6, %r5, l59
  ldxb %r5, [%r1+2103]
  jne %r6, %r5, l59
  mov %r0, %r2
  lsh %r0, 4
  mov %r6, %r4
  add %r6, %r0
  lddw %r0, 0xffffffff
  ldxh %r7, [%r6+332]
  ldxw %r6, [%r1+2232]
  jge %r7, %r6, l59
  ldxdw %r9, [%r1+2224]
  mov %r8, %r1
  add %r8, %r9
  add %r8, 2096
  mov %r9, %r7
  lsh %r9, 4
  add %r8, %r9
  ldxh %r9, [%r8+8]
  jeq %r9, 0, l59
  mov %r9, %r8
  add %r9, 8
  ldxdw %r3, [%r8+0]
  stxdw [%r1+48], %r3
  mov %r3, %r2
  lsh %r3, 4
  add %r4, %r3
  ldxw %r3, [%r4+328]
  mov %r0, 1
  stxw [%r1+16], %r0
  stxw [%r1+72], %r3
  mov %r3, 0
  stxh [%r9+0], %r3
  ldxh %r4, [%r1+2096]
  stxh [%r8+12], %r4
  stxh [%r1+2096], %r7
  add %r2, 1
  mov %r4, %r2
  and %r4, 65535
  jgt %r6, %r4, l58
  xor %r5, 1
  stxb [%r1+2103], %r5
  mov %r2, 0
l58:
  stxh [%r1+2100], %r2
l59:
  jne %r3, 0, l67
  call helper 0x4b8f0000
  mov %r1, %r0
  lsh %r1, 32
  arsh %r1, 32
  mov %r2, 0
  jsgt %r2, %r1, l67
  mov %r0, 1
l67:
  exit

=== O1-v1/packed_rxr
! context 8752
! accepted 21 23 30 31
  ldxw %r3, [%r1+2232]
  mov %r2, 0
  jeq %r3, 0, l34
  mov %r4, 0
  mov %r5, 64
  mov %r0, %r1
  mov %r6, 0
  mov %r2, 0
  ja l18
l9:
  jgt %r6, 254, l34
  add %r6, 1
  jge %r6, %r3, l34
  add %r0, 16
  mov %r7, %r2
  lsh %r7, 32
  rsh %r7, 32
  jgt %r5, %r7, l18
  ja l34
l18:
  ldxdw %r8, [%r1+2224]
  mov %r7, %r0
  add %r7, %r8
  ldxh %r8, [%r7+2104]
  jeq %r8, 0, l9
  stxh [%r7+2104], %r4
  mov %r8, %r2
  lsh %r8, 32
  rsh %r8, 32
  lsh %r8, 5
  mov %r9, %r1
  add %r9, %r8
  ldxdw %r7, [%r7+2096]
  stxdw [%r9+48], %r7
  add %r2, 1
  ja l9
l34:
  stxw [%r1+16], %r2
  lsh %r2, 32
  rsh %r2, 32
  mov %r0, 1
  jne %r2, 0, l40
  mov %r0, 0
l40:
  exit

=== O1-v1/gso_txp
! context 8752
! accepted 25 27 29 30 43 46 47 49 51 53 54 56
  mov %r6, %r1
  lddw %r0, 0xffffffff
  ldxw %r7, [%r6+2096]
  ldxw %r1, [%r6+2352]
  ldxw %r2, [%r6+16]
  jeq %r2, 0, l65
  jgt %r2, 64, l65
  mov %r8, 0
  jeq %r2, 0, l35
  mov %r3, 0
  mov %r4, %r6
  add %r4, 72
  mov %r5, %r6
  add %r5, 2608
  mov %r0, 0
l16:
  mov %r9, %r7
  add %r9, %r0
  and %r9, %r1
  lsh %r9, 32
  rsh %r9, 32
  lsh %r9, 5
  mov %r8, %r5
  add %r8, %r9
  ldxdw %r9, [%r4-24]
  stxdw [%r8+0], %r9
  ldxdw %r9, [%r4-16]
  stxdw [%r8+8], %r9
  ldxw %r9, [%r4+0]
  stxh [%r8+18], %r3
  stxh [%r8+16], %r9
  add %r4, 32
  add %r0, 1
  jgt %r2, %r0, l16
  add %r7, %r0
l35:
  mov %r2, %r10
  add %r2, -16
  mov %r1, %r6
  call helper 0x4b8f0003
  lsh %r0, 32
  rsh %r0, 32
  jeq %r0, 0, l48
  ldxh %r1, [%r10-10]
  stxh [%r8+20], %r1
  ldxh %r1, [%r10-8]
  mov %r2, 2
  stxh [%r8+18], %r2
  stxh [%r8+22], %r1
l48:
  ldxh %r1, [%r10-14]
  stxh [%r8+24], %r1
  ldxh %r1, [%r10-12]
  stxh [%r8+26], %r1
  ldxb %r1, [%r10-15]
  stxh [%r8+28], %r1
  ldxh %r1, [%r8+18]
  or %r1, 1
  stxh [%r8+18], %r1
  stxw [%r6+2096], %r7
  call helper 0x4b8f0009
  mov %r0, 0
  mov %r1, 1
  ldxw %r2, [%r6+2228]
  jne %r2, 0, l64
  mov %r1, 0
l64:
  stxw [%r6+24], %r1
l65:
  exit

=== O1-v1/gso_rxc
! context 8752
! accepted 42 43 45 47 56 58 60 62 64
  mov %r9, %r1
  mov %r0, 0
  stxh [%r10-8], %r0
  stxdw [%r10-16], %r0
  ldxw %r1, [%r9+2480]
  ldxw %r2, [%r9+2224]
  ldxw %r4, [%r9+2352]
  jeq %r1, %r2, l122
  mov %r0, %r1
  sub %r0, %r2
  mov %r3, 0
  ldxb %r2, [%r10-15]
  stxdw [%r10-24], %r2
  ldxh %r2, [%r10-12]
  stxdw [%r10-32], %r2
  ldxh %r2, [%r10-14]
  stxdw [%r10-40], %r2
  ldxh %r2, [%r10-8]
  stxdw [%r10-56], %r2
  ldxh %r2, [%r10-10]
  stxdw [%r10-64], %r2
  ldxb %r2, [%r10-16]
  stxdw [%r10-48], %r2
  mov %r5, %r9
  add %r5, 2608
  add %r0, 1
  stxdw [%r10-72], %r0
l27:
  mov %r2, %r3
  mov %r7, %r1
  add %r7, %r2
  and %r7, %r4
  mov %r0, %r2
  lsh %r0, 32
  rsh %r0, 32
  lsh %r0, 5
  mov %r6, %r9
  add %r6, %r0
  lsh %r7, 32
  rsh %r7, 32
  lsh %r7, 5
  mov %r0, %r5
  add %r0, %r7
  ldxh %r8, [%r0+18]
  ldxdw %r7, [%r0+0]
  stxdw [%r6+48], %r7
  ldxdw %r7, [%r0+8]
  stxdw [%r6+56], %r7
  ldxh %r7, [%r0+16]
  stxw [%r6+72], %r7
  add %r3, 1
  mov %r6, %r8
  and %r6, 1
  jeq %r6, 0, l96
  mov %r7, 2
  rsh %r8, 1
  and %r8, 1
  ldxh %r2, [%r0+28]
  stxdw [%r10-24], %r2
  ldxh %r2, [%r0+26]
  stxdw [%r10-32], %r2
  ldxh %r2, [%r0+24]
  stxdw [%r10-40], %r2
  ldxh %r2, [%r0+22]
  stxdw [%r10-56], %r2
  ldxh %r2, [%r0+20]
  stxdw [%r10-64], %r2
  stxdw [%r10-48], %r8
l67:
  jeq %r7, 0, l27
  jne %r7, 2, l108
  ldxdw %r2, [%r10-56]
  stxh [%r10-8], %r2
  ldxdw %r2, [%r10-64]
  stxh [%r10-10], %r2
  ldxdw %r2, [%r10-32]
  stxh [%r10-12], %r2
  ldxdw %r2, [%r10-40]
  stxh [%r10-14], %r2
  ldxdw %r2, [%r10-24]
  stxb [%r10-15], %r2
  ldxdw %r2, [%r10-48]
  stxb [%r10-16], %r2
  add %r1, %r3
  stxw [%r9+2480], %r1
  stxw [%r9+16], %r3
  mov %r1, %r9
  call helper 0x4b8f0000
  lsh %r0, 32
  arsh %r0, 32
  mov %r1, 0
  jsgt %r1, %r0, l122
  mov %r2, %r10
  add %r2, -16
  mov %r1, %r9
  call helper 0x4b8f0004
  mov %r0, 1
  ja l122
l96:
  mov %r7, 1
  mov %r0, %r3
  lsh %r0, 32
  rsh %r0, 32
  jgt %r0, 63, l67
  ldxdw %r0, [%r10-72]
  add %r0, %r2
  lsh %r0, 32
  rsh %r0, 32
  jeq %r0, 0, l67
  mov %r7, 0
  ja l67
l108:
  ldxdw %r1, [%r10-56]
  stxh [%r10-8], %r1
  ldxdw %r1, [%r10-64]
  stxh [%r10-10], %r1
  ldxdw %r1, [%r10-32]
  stxh [%r10-12], %r1
  ldxdw %r1, [%r10-40]
  stxh [%r10-14], %r1
  ldxdw %r1, [%r10-24]
  stxb [%r10-15], %r1
  ldxdw %r1, [%r10-48]
  stxb [%r10-16], %r1
  lddw %r0, 0xffffffff
l122:
  exit

=== O1-v1/bounce_txh
! context 8752
! accepted
  mov %r6, %r1
  mov %r7, 0
  mov %r8, %r6
  add %r8, 72
  ldxw %r9, [%r6+16]
  ja l10
l6:
  add %r7, 1
  mov %r1, 2
  add %r8, 32
  jeq %r7, 64, l29
l10:
  mov %r1, 2
  mov %r2, 0
  jge %r7, %r9, l28
  ldxw %r3, [%r8+0]
  ldxdw %r2, [%r8-8]
  mov %r4, %r10
  add %r4, -8
  mov %r1, %r6
  call helper 0x4b8f0007
  mov %r1, 1
  lsh %r0, 32
  rsh %r0, 32
  mov %r2, 0
  jne %r0, 0, l28
  ldxdw %r1, [%r10-8]
  stxdw [%r8-16], %r1
  mov %r1, 0
  mov %r2, 1
l28:
  jne %r2, 0, l6
l29:
  mov %r0, -1
  jne %r1, 2, l32
  mov %r0, 0
l32:
  exit

=== O1-v1/print_txh
! context 8752
! accepted
  mov %r2, 0x73667562
  stxw [%r10-8], %r2
  mov %r2, 0
  stxb [%r10-4], %r2
  ldxw %r2, [%r1+16]
  mov %r1, %r10
  add %r1, -8
  call helper 0x4b8f000a
  mov %r0, 0
  exit

=== O1-v1/sum_rxh
! context 8752
! accepted
  ldxw %r2, [%r1+16]
  add %r1, 48
  call local l8
  mov %r1, %r0
  mov %r0, 1
  jgt %r1, 0x10000, l7
  mov %r0, 0
l7:
  exit
l8:
  mov %r0, 0
  lsh %r2, 32
  rsh %r2, 32
  jeq %r2, 0, l21
  mov %r3, 0
  add %r1, 24
  mov %r0, 0
l15:
  ldxw %r4, [%r1+0]
  add %r0, %r4
  jgt %r3, 62, l21
  add %r1, 32
  add %r3, 1
  jgt %r2, %r3, l15
l21:
  exit

=== O1-v1/bubble_rxh
! context 8752
! accepted
  mov %r2, 0
  add %r1, 72
l2:
  mov %r3, %r10
  add %r3, -32
  add %r3, %r2
  ldxw %r4, [%r1+0]
  stxw [%r3+0], %r4
  add %r1, 32
  add %r2, 4
  jne %r2, 32, l2
  mov %r1, 0
  ja l17
l12:
  add %r1, 1
  mov %r2, %r1
  lsh %r2, 32
  rsh %r2, 32
  jeq %r2, 7, l30
l17:
  mov %r2, 0
  ja l21
l19:
  add %r2, 4
  jeq %r2, 28, l12
l21:
  mov %r3, %r10
  add %r3, -32
  add %r3, %r2
  ldxw %r4, [%r3+0]
  ldxw %r5, [%r3+4]
  jge %r5, %r4, l19
  stxw [%r3+0], %r5
  stxw [%r3+4], %r4
  ja l19
l30:
  ldxw %r1, [%r10-32]
  mov %r0, 1
  ldxw %r2, [%r10-4]
  jgt %r2, %r1, l35
  mov %r0, 0
l35:
  exit

