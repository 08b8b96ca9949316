#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# qemu-img convert, with many requests out of order, to a disk (-n) and from it;
# and qemu-io through QEMU's NBD client.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

truncate -s 96M plain.raw
head -c 20M /dev/urandom | dd of=plain.raw bs=1M seek=7 conv=notrunc iflag=fullblock status=none
head -c 70000 /dev/urandom | dd of=plain.raw bs=1000 seek=90001 conv=notrunc iflag=fullblock status=none

make_qcow2 disk.qcow2 96M
serve file disk.qcow2 bitmap=b0
disk="nbd:unix:$tmp/main.sock"
qemu-img convert -n -W -m 16 -f raw -O raw plain.raw "$disk"
qemu-img convert -W -m 16 -f raw -O raw "$disk" back.raw
cmp plain.raw back.raw
qemu-img compare -q -f raw -F raw plain.raw "$disk"

step "qemu-io: zeros, discards, and reads that look"
for file in "$disk" plain.raw; do
    qemu-io -f raw -d unmap -c 'write -P 0x31 1M 300k' -c 'write -z 8M 1M' -c 'write -zu 10M 1M' \
        -c 'discard 12M 64k' -c 'write -f -P 0x32 95M 64k' -c 'flush' -c 'read -P 0x31 1M 300k' \
        -c 'read -P 0 8M 1M' -c 'read -P 0 10M 1M' -c 'read -P 0x32 95M 64k' "$file" >io.out
    ! grep -qi 'failed\|error' io.out || fail "$(cat io.out)"
done
# Who discards does not know what he reads then.
for file in "$disk" plain.raw; do qemu-io -f raw -c 'write -z 12M 64k' "$file" >/dev/null; done
stop
check_image disk.qcow2
same_disk disk.qcow2 plain.raw
