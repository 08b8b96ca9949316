#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# make demo: a disk with a file system and a bitmap is served, a client changes
# blocks of two files in it, and the bitmap says which.
#
# FILTER is the filter's file. Everything happens in a temporary folder.

set -eu -o pipefail

filter=${FILTER:?run this by make demo}
export PATH=$PATH:/usr/sbin:/sbin

for tool in nbdkit qemu-img qemu-nbd nbdinfo mke2fs e2fsck debugfs; do
    command -v $tool >/dev/null || { echo "demo: $tool is missing: ./bootstrap installs it" >&2; exit 1; }
done
python=${PYTHON:-/usr/bin/python3}
$python -c 'import nbd' 2>/dev/null ||
    { echo "demo: $python has no module nbd: ./bootstrap installs it" >&2; exit 1; }

folder=$(mktemp -d "${TMPDIR:-/tmp}/qcow2bitmap-demo.XXXXXX")
server=
reader=
clean_up()
{
    local pid
    for pid in $server $reader; do
        kill "$pid" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
cd "$folder"

title() { printf '\n== %s\n' "$*"; }
# Shows a command and runs it.
run() { echo "\$ $*"; "$@"; }

# wait_until PID COMMAND...: until it succeeds; PID must stay alive.
wait_until()
{
    local pid=$1 tries
    shift
    for tries in $(seq 200); do
        ! "$@" || return 0
        kill -0 "$pid" 2>/dev/null || { echo "demo: the server has stopped" >&2; exit 1; }
        sleep 0.05
    done
    echo "demo: waited too long ($tries tries): $*" >&2
    exit 1
}

# file_blocks NAME: the file system blocks of a file in the image.
file_blocks() { debugfs -R "blocks /$1" disk.raw 2>/dev/null; }

title "A disk: qcow2, with ext4 and files in it, and a bitmap named backup"
mkdir tree
head -c 4096 >tree/notes.txt < <(yes 'before')
head -c 24M /dev/urandom >tree/database.bin
run mke2fs -q -t ext4 -b 4096 -d tree disk.raw 512M
run qemu-img convert -f raw -O qcow2 disk.raw disk.qcow2
run qemu-img bitmap --add disk.qcow2 backup
file_blocks notes.txt >notes.blocks
file_blocks database.bin >database.blocks

title "nbdkit serves it"
echo "\$ nbdkit --filter=qcow2bitmap file disk.qcow2"
nbdkit -f -U "$folder/sock" -P "$folder/pid" --filter="$filter" file "$folder/disk.qcow2" &
server=$!
wait_until "$server" test -s pid
run nbdinfo --size "nbd+unix:///?socket=$folder/sock"

title "An NBD client changes a text file and 300 blocks of a big file"
cat >client.py <<'EOF'
import nbd
import sys

h = nbd.NBD()
h.connect_unix(sys.argv[1])

def blocks(name):
    return [int(word) for word in open(name).read().split()]

[note] = blocks("notes.blocks")
h.pwrite((b"after!\n" * 600)[:4096], note * 4096)

everywhere = blocks("database.blocks")
changed = everywhere[200:300] + everywhere[2000:2100] + everywhere[5000:5100]
for block in changed:
    h.pwrite(b"new data" * 512, block * 4096)
    assert h.pread(4096, block * 4096) == b"new data" * 512
h.flush()
h.shutdown()
print("wrote and read back 1 + %d blocks of 4 KiB" % len(changed))
EOF
$python client.py "$folder/sock"

title "The server stops"
kill -TERM "$server"
status=0
wait "$server" || status=$?
server=
[ "$status" -eq 0 ] || { echo "demo: nbdkit ended with exit status $status" >&2; exit 1; }
echo "nbdkit has stopped, exit status 0"

title "QEMU finds the image sound, and so is the file system in it"
run qemu-img check -f qcow2 disk.qcow2
qemu-img convert -f qcow2 -O raw disk.qcow2 now.raw
run e2fsck -f -n now.raw 2>/dev/null
echo "\$ cat notes.txt | head -n 2"
debugfs -R 'cat /notes.txt' now.raw 2>/dev/null | sed -n 1,2p
[ "$(debugfs -R 'cat /notes.txt' now.raw 2>/dev/null | head -n 1)" = 'after!' ]

title "What the next backup has to copy, as QEMU reads it from the file"
echo "\$ qemu-nbd -r -f qcow2 -B backup disk.qcow2"
qemu-nbd -r -t -e 2 -f qcow2 -B backup -k "$folder/sock2" --pid-file="$folder/pid2" "$folder/disk.qcow2" &
reader=$!
wait_until "$reader" test -s pid2
uri="nbd+unix:///?socket=$folder/sock2"
echo "\$ nbdinfo --map=qemu:dirty-bitmap:backup nbd://..."
nbdinfo --map=qemu:dirty-bitmap:backup "$uri" >map
if [ "$(wc -l <map)" -le 16 ]; then
    cat map
else
    head -n 8 map
    echo "       ... $(($(wc -l <map) - 12)) lines more ..."
    tail -n 4 map
fi
echo "\$ nbdinfo --map=qemu:dirty-bitmap:backup --totals nbd://..."
nbdinfo --map=qemu:dirty-bitmap:backup --totals "$uri" | tee totals
kill "$reader"
wait "$reader" || true
reader=

# 301 blocks of 4 KiB cannot be less than that, and not the whole disk.
awk '$4 == "dirty" { dirty = $1; share = $2 }
     END {
         if (dirty < 301 * 4096 || dirty > 128 * 1024 * 1024) {
             print "demo: " dirty + 0 " dirty bytes cannot be right" > "/dev/stderr"
             exit 1
         }
         printf "\n%.1f MiB of 512 MiB are dirty: %s\n", dirty / 1048576, share
     }' totals

title "Now your disk"
cat <<EOF
From this folder, without installing:

    nbdkit -f -U disk.sock --filter=$filter \\
        file /path/to/your.qcow2

After make install:

    nbdkit -f -U disk.sock --filter=qcow2bitmap file /path/to/your.qcow2

Clients find it at nbd+unix:///?socket=disk.sock until Ctrl-C. (Without -U it listens
on all interfaces, and whoever reaches it may write.)
To make a bitmap on the way: bitmap=NAME at the end of the line.
EOF
