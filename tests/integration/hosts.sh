#!/usr/bin/env bash
# Machines that exist only here: namespaces on a bridge of their own, each with ssh, processes, /tmp/ray and
# /mnt/shared. Runs as the first process of a PID and network namespace; when it ends, so does all of it.
#
#   hosts.sh FOLDER NAME=ADDRESS...      FOLDER/NAME is a host's home, FOLDER/shared what all of them share
set -euo pipefail
folder=$1
shift

# Ray names ssh's shared connections, in /tmp, after both ends: two of these scenes must not take each other's.
scene=$(cksum <<< "$folder" | cut -d' ' -f1)

live_in() { # FOLDER: root's home, as ssh and login shells look it up; and nobody's settings of ssh but its own
  awk -F: -v OFS=: -v home="$1" '$3 == 0 { $6 = home; $7 = "/bin/bash" } 1' /etc/passwd > /run/passwd
  mount --bind /run/passwd /etc/passwd
  if [ -e /etc/ssh/ssh_config ]; then
    mount --bind /dev/null /etc/ssh/ssh_config
  fi
}

host() { # NAME ADDRESS
  hostname "$1-$scene"
  mkdir -p "$folder/$1/tmp-ray" /tmp/ray
  mount --bind "$folder/$1/tmp-ray" /tmp/ray
  mount -t tmpfs none /dev/shm
  mount -t tmpfs none /mnt
  mkdir /mnt/shared
  mount --bind "$folder/shared" /mnt/shared
  mount -t tmpfs none /run
  mkdir /run/sshd
  live_in "$folder/$1"
  exec "$(command -v sshd)" -D -e -f "$folder/sshd_config" -o "ListenAddress=$2" \
    -o "AuthorizedKeysFile=$folder/key.pub" -o "HostKey=$folder/host_key" 2>> "$folder/$1/sshd.log"
}

if [ "${1:-}" = --host ]; then
  host "$2" "$3"
fi

hostname "laptop-$scene"
mount --make-rprivate /
mount -t tmpfs none /run
live_in "$folder/client"
mkdir -p "$folder/client/tmp-ray" /tmp/ray
mount --bind "$folder/client/tmp-ray" /tmp/ray
ip link set lo up
ip link add hosts type bridge
ip addr add 10.77.0.1/24 dev hosts
ip link set hosts up
for machine in "$@"; do
  name=${machine%%=*} address=${machine#*=}
  ip netns add "$name"
  ip link add "to-$name" type veth peer name eth0 netns "$name"
  ip link set "to-$name" master hosts up
  ip -n "$name" link set lo up
  ip -n "$name" addr add "$address/24" dev eth0
  ip -n "$name" link set eth0 up
  ip -n "$name" route add default via 10.77.0.1
  ip netns exec "$name" unshare --pid --mount --uts --fork --mount-proc --kill-child \
    "$BASH" "$0" "$folder" --host "$name" "$address" &
done
wait
