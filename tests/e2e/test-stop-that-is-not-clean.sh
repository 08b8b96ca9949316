#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A stop that cannot bring the file to what a clean stop leaves: a message says so, and
# nbdkit's exit code is not 0. Below us a filter that sleeps, which nbdkit does not let
# sleep when it is to end; and a flush that has failed.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

step "delay below, and a stop in the middle of what the last client has left"
requires_filter delay
make_qcow2 disk.qcow2 64M
qemu-img bitmap --add disk.qcow2 b0
serve --filter=delay file disk.qcow2 bitmap-sync=on-close wdelay=1
client <<'PYTHON'
h.pwrite(b"x" * 512, 0)
h.shutdown()
PYTHON
stop_badly
same "$(bitmap_info disk.qcow2 b0)" "65536 in-use,auto"
check_image_leaks_at_worst disk.qcow2

step "and without haste it is clean"
make_qcow2 disk.qcow2 64M
qemu-img bitmap --add disk.qcow2 b0
serve --filter=delay file disk.qcow2 bitmap-sync=on-close wdelay=100ms
client <<'PYTHON'
h.pwrite(b"x" * 512, 0)
h.shutdown()
PYTHON
settled
stop
same "$(bitmap_info disk.qcow2 b0)" "65536 auto"
check_image disk.qcow2
