#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# As a daemon nbdkit is in another folder: names that were given relative to ours, and
# those that the image has relative to itself, still lead to the files. The file
# grows, too.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

mkdir disks bases
make_qcow2 bases/base.qcow2 16M
qemu-io -f qcow2 -c 'write -P 0x42 0 1M' bases/base.qcow2 >/dev/null
qemu-img create -q -f qcow2 -b ../bases/base.qcow2 -F qcow2 disks/disk.qcow2

cd disks
"${nbdkit_command[@]}" -U "$tmp/main.sock" -P "$tmp/main.pid" --filter="$FILTER" \
    file disk.qcow2 qcow2-files=../bases bitmap=b0
cd ..
wait_until "the daemon" test -s main.pid
pid=$(cat main.pid)
cleanup_fn kill -9 "$pid"
client <<'PYTHON'
assert h.pread(65536, 0) == b"B" * 65536
h.pwrite(b"O" * 5000, 1000)
h.pwrite(b"P" * (4 << 20), 8 << 20)
h.flush()
assert h.pread(10000, 0) == b"B" * 1000 + b"O" * 5000 + b"B" * 4000
h.shutdown()
PYTHON
kill "$pid"
wait_until "the end of the daemon" eval "! kill -0 $pid 2>/dev/null"
check_image disks/disk.qcow2
same "$(dirty_map b0 disks/disk.qcow2)" "0+65536"$'\n'"8388608+4194304"
qemu-io -r -f qcow2 -c 'read -P 0x4f 1000 5000' -c 'read -P 0x42 6000 1000' -c 'read -P 0x50 8M 4M' \
    disks/disk.qcow2 >io.out
! grep -q 'verification failed' io.out || fail "$(cat io.out)"
