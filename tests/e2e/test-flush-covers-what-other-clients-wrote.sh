#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# can_multi_conn is no lie: a flush through one connection makes durable what
# another has written. Shown by kill -9, and by reading through a third.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

make_qcow2 disk.qcow2 64M
serve file disk.qcow2
client <<'PYTHON'
one, two, three = h, connect(), connect()
assert one.can_multi_conn()
for i in range(16):
    one.pwrite(bytes([i + 1]) * 70000, i * 1000000)
    assert three.pread(70000, i * 1000000) == bytes([i + 1]) * 70000
two.flush()
os.kill(int(open("main.pid").read()), 9)
PYTHON
kill_server
check_image_leaks_at_worst disk.qcow2
serve -r file disk.qcow2
client <<'PYTHON'
for i in range(16):
    assert h.pread(70000, i * 1000000) == bytes([i + 1]) * 70000
h.shutdown()
PYTHON
stop
