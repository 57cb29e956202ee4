/**
 * The guest's first program, and its only one of ours: a shell script.
 *
 * It mounts what everybody needs, loads the modules in /modules/boot, and runs scripts that come over a virtio-serial port, several
 * at once:
 *
 * ```
 *   host ──► ID SCRIPT                    a line; SCRIPT in base64
 *        ◄── ready                        a line, after each boot
 *        ◄── ID CODE =STDOUT =STDERR      a line for each script, when it has ended; both in base64
 * ```
 * `alive PID` in such a script says by its exit code whether a process runs; `load LIST` loads one of the other lists of modules, each with all that it needs (image.ts).
 */
export const PORT_NAME = 'polynic.agent';

export const INIT = `#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /bin /sbin
/bin/busybox --install -s /bin
export PATH=/bin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmp /tmp
exec >/dev/console 2>&1 </dev/null

cat >/bin/load <<'END'
#!/bin/sh
while read -r file; do
  name=$(basename "$file" .ko | tr - _)
  # Words of the kernel's command line that begin with the module's name are for it.
  options=$(tr ' ' '\\n' </proc/cmdline | sed -n "s/^$name\\.//p")
  [ -d "/sys/module/$name" ] || insmod "$file" $options || exit 1
done <"/modules/$1"
END
# Who has ended and whom nobody has waited for yet, as those whose script is over, is not alive.
cat >/bin/alive <<'END'
#!/bin/sh
grep -qs '^State:.[^ZX]' "/proc/$1/status"
END
chmod 755 /bin/load /bin/alive
load boot
ip link set lo up

# Ports appear a moment after their driver.
port=
while [ -z "$port" ]; do
  for name in /sys/class/virtio-ports/*/name; do
    [ -e "$name" ] && [ "$(cat "$name")" = ${PORT_NAME} ] && port=/dev/$(basename "$(dirname "$name")")
  done
  [ -n "$port" ] || usleep 5000
done
exec 3<>"$port"
echo ready >&3

# Answers go out one after another: who has one says so in a pipe.
mkfifo /run/done
while read -r id; do
  cat /run/$id.answer >&3
  rm -f /run/$id.*
done <>/run/done &

while read -r id script <&3; do
  (
    echo "$script" | base64 -d >/run/$id.sh
    sh /run/$id.sh >/run/$id.out 2>/run/$id.err 3>&-
    code=$?
    echo "$id $code =$(base64 -w 0 /run/$id.out) =$(base64 -w 0 /run/$id.err)" >/run/$id.answer
    echo $id >/run/done
  ) &
done
poweroff -f
`;
