#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The recipes of qcow2bitmap(1) and of the README, word for word, but for the places of
# files and sockets.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

requires socat zstd
mkdir run backup vm

# qcow2bitmap from the source tree, as it would be found when it is installed.
mkdir bin
printf '#!/bin/sh\nexec "%s" -IB "%s/tools" "$@"\n' "$PYTHON" "$top_srcdir" >bin/qcow2bitmap
chmod +x bin/qcow2bitmap
PATH=$tmp/bin:$PATH

# here: a recipe on standard input as it reads on this machine.
here()
{
    sed -e "s|/run/|$tmp/run/|g; s|/backup/vm1|$tmp/backup/vm1|g; s|/var/lib/vm/|$tmp/vm/|g" \
        -e "s|--filter=qcow2bitmap|--filter=$FILTER|g"
}

# recipe HEADING: what stands in the man page as it is to be typed.
recipe()
{
    sed -n "/^=head2 $1\$/,/^=head/s/^ //p" "$top_srcdir/man/qcow2bitmap.pod" | here
}

# readme HEADING: the same of the README.
readme() { sed -n "/^## $1\$/,/^## /s/^    //p" "$top_srcdir/README.md" | here; }

# change PATTERN: a part of the disk; all of what it then is goes to disk.raw.
change()
{
    client vm1 "$1" <<'PYTHON'
h.pwrite(bytes([int(sys.argv[1])]) * 300000, 1 << 20)
h.pwrite(bytes([int(sys.argv[1]) + 100]) * 5000, int(sys.argv[1]) << 21)
h.zero(100000, 2 << 20)
h.flush()
open("disk.raw", "wb").write(h.pread(h.get_size(), 0))
PYTHON
}

# serve_vm1 ARGUMENTS: as in the README, in the foreground.
serve_vm1()
{
    remove run/vm1.nbd
    start vm1 as_server "${nbdkit_command[@]}" -f -U "$tmp/run/vm1.nbd" -P "$tmp/vm1.pid" \
        --filter="$FILTER" file vm/vm1.qcow2 qcow2-control="$tmp/run/vm1.qmp" "$@"
    ln -sf "$tmp/run/vm1.nbd" vm1.sock
}

# succeeded FILE: what the control socket answered has no error.
succeeded()
{
    ! says '"error"' "$1" || fail "$(cat "$1")"
    says '"return"' "$1" || fail "no answer: $(cat "$1")"
}

step "units of systemd"
mkdir units
recipe "Every night, by systemd" | awk '/^\[Unit\]/ { n++ } { print >("units/" n) }'
mv units/1 units/vm1-disk.service
mv units/2 units/vm1-backup.service
mv units/3 units/vm1-backup.timer
# (Where the programs are is the machine's affair.)
sed -i -E 's/^(Exec[A-Za-z]+=)([a-z]+)/\1\/usr\/bin\/env \2/' units/*.service
if command -v systemd-analyze >/dev/null; then
    systemd-analyze verify --man=no units/vm1-disk.service units/vm1-backup.service units/vm1-backup.timer >units.out 2>&1 ||
        fail "$(cat units.out)"
    same "$(grep -F units/ units.out || true)" ""
else
    echo "this needs systemd-analyze"
fi

make_qcow2 vm/vm1.qcow2 32M
serve_vm1 bitmap=nightly

step "by hand, with qemu-img and socat"
recipe "By hand, with qemu-img and socat" >by-hand.sh
# The full one ends where the incremental one begins.
sed '/"id": "mon"/,$d' by-hand.sh | sed '$d' >sun.sh
{ sed -n '/^ctl() {/,/^}/p' by-hand.sh; sed -n '/"id": "sun", "success"/,$p' by-hand.sh | sed 1d; } >mon.sh
change 1
. ./sun.sh >sun.out
succeeded sun.out
same_disk sun.qcow2 disk.raw
change 2
. ./mon.sh >mon.out
succeeded mon.out
same_disk mon.qcow2 disk.raw
says "$(basename sun.qcow2)" <(qemu-img info mon.qcow2) || fail "$(qemu-img info mon.qcow2)"
[ "$(length_of mon.qcow2)" -lt 1200000 ] || fail "mon.qcow2 has $(length_of mon.qcow2) bytes"

step "as a stream"
change 3
recipe "As a stream" >stream.sh
. ./stream.sh >stream.out
succeeded stream.out
zstd -q -d tue.qcow2.zst
check_image tue.qcow2
same_disk tue.qcow2 disk.raw

step "for programs which want qemu:dirty-bitmap"
change 4
recipe "For programs which want qemu:dirty-bitmap" >qemu-nbd.sh
sed '/^qemu-nbd/,$d' qemu-nbd.sh >begin.sh
sed -n '/^qemu-nbd/,$p' qemu-nbd.sh >serve.sh
. ./begin.sh >begin.out
succeeded begin.out
start wed bash -c "$(sed 's/^qemu-nbd/exec qemu-nbd --pid-file=wed.pid/' serve.sh)"
# Two that overlap: what was written since the last backup.
same "$(nbdinfo --map=qemu:dirty-bitmap:nightly "nbd+unix:///?socket=$tmp/run/wed.nbd" | awk '$3 == 1 { print $1, $2 }')" \
    "1048576 327680"$'\n'"2097152 131072"$'\n'"8388608 65536"
kill_server wed
ctl '{"execute": "backup-end", "arguments": {"id": "wed", "success": false}}' >end.out
succeeded end.out
stop vm1

step "the README's lines"
readme "Back it up while it is in use" >readme.sh
lines() { sed -n "/$1/,/$2/p" readme.sh; }
serve_vm1
eval "$(lines '^mkdir' '^qcow2bitmap')"
change 5
eval "$(sed -n 's/^30 2 .* root //p' readme.sh)"
recipe "Every night, by cron" | sed -n 's/^30 . \* .* root //p' >cron.sh
says "qcow2bitmap -q prune" cron.sh || fail "$(cat cron.sh)"
bash -eu cron.sh
same "$(qcow2bitmap list backup/vm1 | awk 'NR > 1 { print $3 }')" "full"$'\n'"incremental"$'\n'"incremental"
lines '^qcow2bitmap list' '^qcow2bitmap prune' | sed "s/ --at .*//; s/--keep 30/--keep 1/" >folder.sh
bash -eux folder.sh
same_disk disk.qcow2 disk.raw
same "$(qcow2bitmap list backup/vm1 | awk 'NR > 1 { print $3 }')" "full"
stop vm1
eval "$(grep '^qemu-img create' readme.sh)" >create.out
start now bash -c "$(sed -n "s|^nbdkit\(.*now.qcow2.*\)|exec nbdkit -f -P $tmp/now.pid\1|p" readme.sh)"
nbdcopy "nbd+unix:///?socket=$tmp/run/now.nbd" now.raw
cmp now.raw disk.raw
stop now
