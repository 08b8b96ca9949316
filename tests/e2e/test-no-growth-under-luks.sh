#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Under us the luks filter, over the file plugin: what is appended to the file would
# be ciphertext of nothing.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

. "$srcdir/e2e/fill.sh"
requires_filter luks

secret=(--object secret,id=key,data=hunter2)
qemu-img create -q -f luks "${secret[@]}" -o key-secret=key,iter-time=10 locked.luks 4M 2>/dev/null ||
    skip "qemu-img cannot make LUKS containers"
make_qcow2 disk.qcow2 64M
truncate -s 4M disk.qcow2
qemu-img convert -n "${secret[@]}" -f raw --target-image-opts disk.qcow2 \
    driver=luks,key-secret=key,file.filename=locked.luks
length=$(length_of locked.luks)

serve --filter=luks file locked.luks passphrase=hunter2 bitmap=b0
fill
stop
same "$(length_of locked.luks)" "$length"

qemu-img convert "${secret[@]}" --image-opts -O raw \
    driver=luks,key-secret=key,file.filename=locked.luks disk.qcow2
check_image disk.qcow2
same_disk disk.qcow2 twin.raw
dirty_covers_touched b0 disk.qcow2
