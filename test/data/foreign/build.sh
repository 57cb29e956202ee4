#!/bin/sh
# Compiles the sources here, each in two ways, to the objects that are committed beside them. Made with clang 14; others will do.
set -e
cd "$(dirname "$0")"

build() { # source, name of the object, options
    source=$1 object=$2
    shift 2
    clang -target bpf -ffreestanding -fno-ident "-fdebug-prefix-map=$PWD=." "$@" -c "$source.c" -o "$object.o"
}

build sring-volatile sring-volatile -O2 -mcpu=v1 -g
build sring-volatile sring-volatile-v3 -O1 -mcpu=v3
build sring-cursor sring-cursor -O1 -mcpu=v2
build sring-cursor sring-cursor-v3 -O2 -mcpu=v3 -g
build gso-halves gso-halves -O2 -mcpu=v1
build gso-halves gso-halves-v3 -O1 -mcpu=v3 -g
build gso-bitfields gso-bitfields -O1 -mcpu=v2 -g
build gso-bitfields gso-bitfields-v3 -O2 -mcpu=v3
build packed-scan packed-scan -O2 -mcpu=v2 -g
build packed-scan packed-scan-v3 -O1 -mcpu=v3
build packed-walk packed-walk -O1 -mcpu=v1
build packed-walk packed-walk-v3 -O2 -mcpu=v3 -g
