#!/bin/bash
# boot.sh FOLDER GROUP UNIT: systemd as process 1 of new namespaces, on this machine's
# programs, whose files nothing can change. FOLDER is the same inside; UNIT's text is in FOLDER/unit.
set -eu
folder=$1 group=$2 unit=$3
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
folder=$1 unit=$2
mkdir -p "$folder/root"
mount -t tmpfs tmpfs "$folder/root"
root=$folder/root/r
mkdir "$folder"/root/{up,work,r}
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/root/up,workdir=$folder/root/work" "$root"

units=$root/etc/systemd/system
rm -rf "$units"/*.wants "$units/default.target"
mkdir -p "$units/multi-user.target.wants"
cp "$folder/unit" "$units/$unit"
ln -s "../$unit" "$units/multi-user.target.wants/"
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
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --show-status=1
' bash "$folder" "$unit"
