#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A service's command line is run again at every restart: each one of the man page's
# examples, run twice, gives the state of running it once.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh
requires_filter offset
requires_filter partition
page=${top_srcdir:-$srcdir/..}/man/nbdkit-qcow2bitmap-filter.pod

# All that the examples name: a disk of 60G with one partition, a snapshot, and bitmaps
# which in another copy a crash of QEMU has made inconsistent.
step "the images"
mkdir images sound
truncate -s 64M images/base.raw
make_qcow2 sound/disk.qcow2 60G
# One partition, at 1M, of 20M: type 0x83.
"$PYTHON" -c '
import struct, sys
entry = struct.pack("<BBBBBBBBII", 0, 0, 2, 0, 0x83, 0, 2, 0, 2048, 40960)
sys.stdout.buffer.write(bytes(446) + entry + bytes(48) + b"\x55\xaa")' >mbr
qemu-io -f qcow2 -c "write -s mbr 0 512" -c "write -P 1 1M 3M" -c "write -P 2 55G 1M" sound/disk.qcow2 >/dev/null
qemu-img snapshot -c before-upgrade sound/disk.qcow2
qemu-io -f qcow2 -c "write -P 3 2M 3M" -c "write -P 4 53G 1M" sound/disk.qcow2 >/dev/null
qemu-img bitmap --add sound/disk.qcow2 enabled
qemu-img bitmap --add --disable sound/disk.qcow2 disabled
qemu-img create -q -f qcow2 -b "$tmp/images/base.raw" -F raw sound/overlay.qcow2 64M
cp sound/disk.qcow2 sound/inconsistent.qcow2
qemu-io -f qcow2 -c 'write 5M 1M' -c 'sigraise 9' sound/inconsistent.qcow2 >qemu-io.out 2>&1 || :
truncate -s 11G sound/disks.img
make_qcow2 inner.qcow2 1G
dd if=inner.qcow2 of=sound/disks.img bs=1M seek=1 conv=notrunc status=none

# The image of an example as QEMU is to open it.
options()
{
    case $2 in
        disks.img) echo "driver=qcow2,file.driver=raw,file.offset=1M,file.size=10G,file.file.driver=file,file.file.filename=$1/$2" ;;
        *) echo "driver=qcow2,file.driver=file,file.filename=$1/$2" ;;
    esac
}

# What can be seen of it but for the content of the disk.
state()
{
    local image
    image=$(options "$1" "$2")
    qemu-img info --output=json --image-opts "$image" | "$PYTHON" -c '
import json, sys
info = json.load(sys.stdin)
data = info["format-specific"]["data"]
print(info["virtual-size"], info.get("backing-filename"), data.get("corrupt"))
print([(s["id"], s["name"], s["vm-state-size"]) for s in info.get("snapshots", [])])
for bitmap in data.get("bitmaps", []):
    print(bitmap["name"], bitmap["granularity"], bitmap["flags"])'
    # (An image whose bitmaps cannot be exported has none to compare.)
    for name in $(qemu-img info --output=json --image-opts "$image" | "$PYTHON" -c '
import json, sys
for bitmap in json.load(sys.stdin)["format-specific"]["data"].get("bitmaps", []):
    if "in-use" not in bitmap["flags"]:
        print(bitmap["name"])'); do
        echo "$name: $(dirty_map "$name" "$1/$2" | tr '\n' ' ')"
    done
    qemu-img check -q --image-opts "$image" && echo "sound" || echo "check: $?"
}

# run FOLDER LINE: as it stands there, with a client that changes something if it
# can. (nbdkit ends with the client, and a maintenance line ends by itself.)
run()
(
    cd "$1"
    nbdkit()
    {
        (as_server "${nbdkit_command[@]}" -U - "$@" --run "$PYTHON $tmp/change.py \$unixsocket")
    }
    line=${2//--filter=qcow2bitmap/--filter=$FILTER}
    eval "${line//\/var\/lib\/images/$tmp/images}"
)

cat >change.py <<'PYTHON'
import sys, nbd
h = nbd.NBD()
h.connect_unix(sys.argv[1])
if not h.is_read_only():
    h.pwrite(b"x" * 4096, 70000)
    h.flush()
h.pread(512, 0)
h.shutdown()
PYTHON

image_of()
{
    local word
    for word in $1; do
        case $word in *.qcow2|*.img) echo "${word%;}"; return ;; esac
    done
    fail "which image? $1"
}

lines=0
while IFS= read -r line; do
    case $line in
        *--filter=qcow2bitmap*) ;;
        qemu-nbd*) continue ;;
        *) fail "what is this? $line" ;;
    esac
    step "$line"
    lines=$((lines + 1))
    image=$(image_of "$line")
    rm -rf once twice
    cp -r --sparse=always sound once
    [[ $line != *bitmap-recover=* ]] || mv once/inconsistent.qcow2 once/disk.qcow2
    before=$( [ -e "once/$image" ] && state once "$image" || echo none)
    run once "$line" >once.log 2>&1 || fail "$(cat once.log)"
    cp -r --sparse=always once twice
    run twice "$line" >twice.log 2>&1 || fail "$(cat twice.log)"
    after=$(state once "$image")
    same "$(state twice "$image")" "$after"
    [[ $after == *sound* ]] || fail "$after"
    qemu-img compare -q --image-opts "$(options once "$image")" "$(options twice "$image")" ||
        fail "the content is another one"
    # What the example is for was done, the first time.
    case $line in
        *bitmap=backup*|*bitmap-remove*|*qcow2-create=*|*qcow2-resize=*|*qcow2-shrink=*) [ "$before" != "$after" ] || fail "nothing happened" ;;
        *" -r "*|*qcow2-snapshot=*|*qcow2-check=*) cmp "once/$image" "sound/$image" ;;
        *qcow2-revert=*) ;;
        *)  ! qemu-img compare -q --image-opts "$(options once "$image")" "$(options sound "$image")" ||
                fail "the client has changed nothing" ;;
    esac
done < <(sed -n '/^=head1 EXAMPLES/,/^=head1 NOTES/s/^=head2 //p' "$page")
[ "$lines" -ge 12 ] || fail "only $lines examples"
