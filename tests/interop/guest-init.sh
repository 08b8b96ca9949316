#!/bin/busybox sh
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# /init of the machine of guest.py, run by busybox. It mounts the ext4 file system of the
# first disk at /disk, and takes orders at its second serial port:
#
#     work    workers begin, one after the other in a shell of its own each
#     check N1 N2   is each file what its name says? "right COUNT", or "wrong FILE". Of workers
#             1 and 2 all up to these steps was on the disk; what came later may be shorter
#     stop    workers end, the file system is unmounted, the machine goes off
#
# A worker W does step after step. "kept W N" is said when all of step N, and of those
# before it, is on the disk: what they have written, renamed and removed. What each step
# does is told where it is done, and guest.py knows it.

export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do
    insmod "/modules/$module"
done </modules/order
stty -F /dev/ttyS1 raw -echo
exec </dev/ttyS1 >/dev/ttyS1

say() { echo "$*"; }

# contents W N: from 8 bytes up to 60000, no two files with the same bytes at one place.
contents() { seq $(($1 * 1000000 + $2)) $(($1 * 1000000 + $2 + $2 * 7919 % 7500)); }

# step_files W N: file N begins under another name, is renamed when it is there, and
# removed 40 steps later.
step_files()
{
    local folder=/disk/files-$1
    contents "$1" "$2" >"$folder/new"
    [ $(($2 % 3)) -eq 0 ] || sync "$folder/new"
    mv "$folder/new" "$folder/$2"
    [ "$2" -le 40 ] || rm "$folder/$(($2 - 40))"
    [ $(($2 % 3)) -ne 0 ] || sync "$folder/$2"
    sync "$folder"
}

# step_replaced W N: one file is replaced, by renaming, again and again.
step_replaced()
{
    local folder=/disk/replaced
    contents "$1" "$2" >"$folder/new"
    sync "$folder/new"
    mv "$folder/new" "$folder/now"
    sync "$folder"
}

# step_blocks W N: block 37 * N of 2048 is overwritten in place.
step_blocks()
{
    seq $(($1 * 1000000 + $2)) $(($1 * 1000000 + $2 + 511)) |
        dd bs=4096 count=1 iflag=fullblock seek=$(($2 * 37 % 2048)) of=/disk/blocks \
            conv=notrunc,fsync 2>/dev/null
}

# step_noise W N: a lot that nobody waits for, folders that move, and trims.
step_noise()
{
    local folder=/disk/noise i
    mkdir -p "$folder/$2"
    for i in 1 2 3 4 5 6 7 8; do
        dd if=/bin/busybox of="$folder/$2/$i" bs=64k 2>/dev/null
    done
    mv "$folder/$2" "$folder/moved-$2"
    [ "$2" -le 4 ] || rm -r "$folder/moved-$(($2 - 4))"
    [ $(($2 % 4)) -ne 0 ] || fstrim /disk
    sync
}

# worker W STEP: until it is told to end; from where it was.
worker()
{
    local n
    n=$(cat "/disk/kept-$1" 2>/dev/null || echo 0)
    while [ ! -e /stop ]; do
        n=$((n + 1))
        "step_$2" "$1" "$n" || say "failed: step $n of worker $1"
        say "kept $1 $n"
    done
    echo "$n" >"/disk/kept-$1"
}

work()
{
    rm -f /stop
    mkdir -p /disk/files-1 /disk/files-2 /disk/replaced
    [ -e /disk/blocks ] || dd if=/dev/zero of=/disk/blocks bs=4096 count=2048 2>/dev/null
    sync
    worker 1 files &
    worker 2 files &
    worker 3 replaced &
    worker 4 blocks &
    worker 5 noise &
}

check()
{
    local count=0 w file
    for w in 1 2; do
        for file in /disk/files-$w/[0-9]*; do
            [ -e "$file" ] || continue
            if contents $w "${file##*/}" | cmp -s - "$file"; then
                count=$((count + 1))
            elif [ "${file##*/}" -le "$1" ]; then
                say "wrong $file"
            fi
        done
        shift
    done
    if [ -e /disk/replaced/now ]; then
        contents 3 $(($(head -n 1 /disk/replaced/now) - 3000000)) | cmp -s - /disk/replaced/now ||
            say "wrong /disk/replaced/now"
        count=$((count + 1))
    fi
    say "right $count"
}

off()
{
    touch /stop
    wait
    umount /disk || say "failed: umount"
    say "off"
    poweroff -f
}

if mount -t ext4 -o discard /dev/vda /disk; then
    say "up"
else
    say "failed: mount"
fi
while read -r order words; do
    case $order in
        work|check) $order $words ;;
        stop) off ;;
    esac
done
