#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Growth goes in large steps; what was never used is cut off when the server ends,
# and kept away from when it is killed.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

make_qcow2 disk.qcow2 1G
serve file disk.qcow2
client <<'PYTHON'
h.pwrite(b"x" * 1000000, 0)
length = os.stat("disk.qcow2").st_size
assert length >= 2 << 20, length
assert length % 65536 == 0
h.shutdown()
PYTHON
stop
# 16 clusters of data, those of the tables before them, and no more.
same "$(length_of disk.qcow2)" $(((3 + 1 + 1 + 16) * 65536))
check_image disk.qcow2

step "what was there before us stays, though it is not used"
truncate -s 5M disk.qcow2
serve file disk.qcow2
client <<'PYTHON'
h.pwrite(b"x" * 65536, 512 << 20)
h.shutdown()
PYTHON
stop
same "$(length_of disk.qcow2)" 5242880
check_image disk.qcow2

step "kill -9 leaves the length, and the next clean stop a good image"
serve file disk.qcow2
client <<'PYTHON'
h.pwrite(b"x" * (8 << 20), 600 << 20)
h.flush()
PYTHON
kill_server
check_image_leaks_at_worst disk.qcow2
serve file disk.qcow2
client <<'PYTHON'
assert h.pread(8 << 20, 600 << 20) == b"x" * (8 << 20)
h.pwrite(b"y" * (1 << 20), 700 << 20)
h.shutdown()
PYTHON
stop
check_image_leaks_at_worst disk.qcow2

step "nothing written, nothing grown"
before=$(length_of disk.qcow2)
serve file disk.qcow2
client <<'PYTHON'
h.pread(1 << 20, 0)
h.shutdown()
PYTHON
stop
same "$(length_of disk.qcow2)" "$before"
