#!/usr/bin/env bash
# Installs the Debian packages that some commands and tests use beyond the npm registry:
#   clang    recompiles the eBPF programs and compares them with the shipped objects
#   tshark   reads our captures as an independent peer
#   iperf3   drives TCP through the link as an independent peer
#   iproute2 looks at interfaces and namespaces from outside
# Does nothing when all of them are there.
set -euo pipefail

declare -A package=([clang]=clang [tshark]=tshark [iperf3]=iperf3 [ip]=iproute2)
missing=()
for tool in "${!package[@]}"; do
  command -v "$tool" >/dev/null || missing+=("${package[$tool]}")
done
if [ ${#missing[@]} -eq 0 ]; then exit 0; fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi
echo "setup:system: installing ${missing[*]}"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
