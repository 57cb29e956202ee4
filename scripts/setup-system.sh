#!/usr/bin/env bash
# Installs what some commands and tests use beyond the npm registry. Says what it does; does nothing, at once, when all is there.
#
#   clang               recompiles the eBPF programs and compares them with the shipped objects
#   tshark              reads our captures as an independent peer
#   iperf3              drives TCP through the link as an independent peer
#   iproute2            looks at interfaces and namespaces from outside
#   qemu-system-x86     virtual machines, the QEMU of this release (7.2 in Debian 12)
#   busybox-static      all of a small virtual machine's userland
#   dpdk-dev            dpdk-testpmd, an independent peer over vhost-user
#
# Into a cache of its own, $POLYNIC_CACHE or /var/cache/polynic, and nowhere else:
#
#   kernel/             Debian's cloud kernel: vmlinuz and modules. The machine's own kernel stays what it is.
#   qemu-11/            a newer QEMU from Debian's backports, with every library that it needs; bin/qemu-system-x86_64 runs it
#
# Packages come from the mirrors in this machine's own apt configuration.
set -euo pipefail

cache=${POLYNIC_CACHE:-/var/cache/polynic}
newer_release=trixie
as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi

say() { echo "setup:system: $*"; }

# Package lists are fetched once, and only when something has to be installed.
update() {
  [ -n "${updated:-}" ] || "${as_root[@]}" apt-get update -qq
  updated=yes
}

install_packages() {
  local tool missing=()
  declare -A package=(
    [clang]=clang [tshark]=tshark [iperf3]=iperf3 [ip]=iproute2
    [qemu-system-x86_64]=qemu-system-x86 [busybox]=busybox-static [dpdk-testpmd]=dpdk-dev
  )
  for tool in "${!package[@]}"; do
    command -v "$tool" >/dev/null || missing+=("${package[$tool]}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${missing[*]}"
  update
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# Puts what `$2 FOLDER` makes at $cache/$1: all of it or nothing, also when two do so at once.
provide() {
  local target=$cache/$1 work
  [ ! -e "$target" ] || return 0
  "${as_root[@]}" mkdir -p "$cache"
  "${as_root[@]}" chown "$(id -u)" "$cache"
  work=$(mktemp -d "$cache/.$1.XXXXXX")
  if "$2" "$work"; then
    chmod 755 "$work"
    mv -T "$work" "$target" 2>/dev/null || rm -rf "$work"
  else
    rm -rf "$work"
    say "no $1: tests that need it will be skipped"
  fi
}

fetch_kernel() {
  local image
  update
  image=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image-/ { print $2; exit }')
  if [ -z "$image" ]; then say "this machine's apt knows no Debian cloud kernel"; return 1; fi
  say "fetching $image into $cache/kernel"
  (cd "$1" && apt-get download -qq "$image" 2>/dev/null && dpkg -x "$image"_*.deb unpacked) || return 1
  mv "$1"/unpacked/boot/vmlinuz-* "$1/vmlinuz" && mv "$1"/unpacked/lib/modules/*/kernel "$1/modules" || return 1
  rm -rf "$1/unpacked" "$1"/*.deb
}

# The mirror that this machine has Debian itself from.
debian_mirror() {
  apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian' |
    awk '$2 !~ /-/ && $3 == "main" { print $1; exit }'
}

# An apt that thinks nothing is installed finds and fetches all of a program's libraries; they are unpacked, never configured or run as root.
fetch_qemu() {
  local mirror apt=$1/apt options package
  update
  mirror=$(debian_mirror)
  if [ -z "$mirror" ]; then say "this machine's apt knows no mirror of Debian"; return 1; fi
  say "fetching QEMU of $newer_release-backports into $cache/qemu-11"
  mkdir -p "$apt"/{lists,archives/partial,none}
  touch "$apt/status"
  for suite in $newer_release $newer_release-backports; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
  done >"$apt/sources.list"
  options=(
    -qq -o APT::Architecture=amd64 -o Acquire::Languages=none -o APT::Sandbox::User=root
    -o "Dir::Etc::SourceList=$apt/sources.list" -o "Dir::Etc::SourceParts=$apt/none"
    -o "Dir::Etc::Preferences=$apt/none/none" -o "Dir::Etc::PreferencesParts=$apt/none"
    -o "Dir::State::Lists=$apt/lists" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt"
  )
  apt-get "${options[@]}" update || return 1
  apt-get "${options[@]}" install -y --no-install-recommends --download-only -t $newer_release-backports \
    qemu-system-x86 >/dev/null || return 1
  for package in "$apt"/archives/*.deb; do dpkg -x "$package" "$1" || return 1; done
  rm -rf "$apt" "$1"/usr/share/{doc,man,locale}
  mkdir "$1/bin"
  cat >"$1/bin/qemu-system-x86_64" <<'WRAPPER'
#!/bin/sh
# Runs this folder's QEMU with this folder's libraries and firmware, wherever the folder is.
root=$(dirname "$(dirname "$(readlink -f "$0")")")
export QEMU_MODULE_DIR="$root/usr/lib/x86_64-linux-gnu/qemu"
exec "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" \
  "$root/usr/bin/qemu-system-x86_64" -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" "$@"
WRAPPER
  chmod 755 "$1/bin/qemu-system-x86_64"
  "$1/bin/qemu-system-x86_64" --version >/dev/null
}

install_packages
provide kernel fetch_kernel
provide qemu-11 fetch_qemu
