#!/bin/bash
# boot.sh FOLDER GROUP: systemd as process 1 of new namespaces, on this machine's
# programs, whose files nothing can change. FOLDER is the same inside, and FOLDER/units is
# the machine's /etc/systemd/system: both outlive it.
set -eu
folder=$1 group=$2
for tree in /sys/fs/cgroup/*/; do
  [ -e "$tree/cgroup.procs" ] || continue
  mkdir -p "$tree/$group"
  if [ -e "$tree/cpuset.cpus" ]; then
    cat "$tree/cpuset.cpus" >"$tree/$group/cpuset.cpus"
    cat "$tree/cpuset.mems" >"$tree/$group/cpuset.mems"
  fi
  echo $$ >"$tree/$group/cgroup.procs"
done
exec unshare --mount --pid --uts --ipc --net --cgroup --fork --kill-child --propagation private bash -eu -c '
folder=$1
mkdir -p "$folder/root" "$folder/units"
mount -t tmpfs tmpfs "$folder/root"
root=$folder/root/r
mkdir "$folder"/root/{up,work,r}
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/root/up,workdir=$folder/root/work" "$root"

units=$root/etc/systemd/system
rm -f "$units/default.target"
mount --bind "$folder/units" "$units"
for u in systemd-udevd.service systemd-udev-trigger.service systemd-journald.service console-getty.service getty@.service; do ln -sf /dev/null "$units/$u"; done

mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /dev "$root/dev"
trees=$root/sys/fs/cgroup
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  mount -t cgroup2 cgroup2 "$trees"
else
  mount -t tmpfs tmpfs "$trees"
  for c in cpu cpuacct cpuset memory devices freezer blkio pids; do
    mkdir "$trees/$c"
    mount -t cgroup -o "$c" cgroup "$trees/$c"
  done
  mkdir "$trees/systemd" "$trees/unified"
  mount -t cgroup -o none,name=systemd cgroup "$trees/systemd"
  mount -t cgroup2 cgroup2 "$trees/unified"
fi
mkdir -p "$root$folder"
mount --bind "$folder" "$root$folder"
cd "$root"
mkdir -p before
pivot_root . before
umount --lazy /before
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --show-status=1
' bash "$folder"
