#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Under us the cache filter: it writes to the file when it likes to, or never, so that
# the file may not grow behind it; at the end all is in the file.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

. "$srcdir/e2e/fill.sh"
requires_filter cache

for mode in writeback writethrough; do
    step "cache=$mode"
    make_qcow2 disk.qcow2 64M
    truncate -s +3M disk.qcow2
    length=$(length_of disk.qcow2)
    serve --filter=cache file disk.qcow2 cache=$mode bitmap=b0
    fill
    stop
    same "$(length_of disk.qcow2)" "$length"
    check_image disk.qcow2
    same_disk disk.qcow2 twin.raw
    dirty_covers_touched b0 disk.qcow2
done
