#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What is flushed survives kill -9 and more: the file below was flushed after the
# last write before the client got its answer. Read from a log between us and the
# file, where also rule B1 can be seen.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

# A bitmap of several clusters, of which the first is made by the first write: that is
# made durable by the layer's flush. (test-barriers-alone.sh has those that need none.)
make_qcow2 disk.qcow2 64M cluster_size=4k
serve_plain main --filter="$FILTER" --filter=log file disk.qcow2 bitmap=b0 bitmap-granularity=512 \
    logfile=below.log
client <<'PYTHON'
import re

# What has come to the file so far: names of requests, in order.
def requests():
    with open("below.log") as file:
        return [(m[1], m[2]) for m in re.finditer(r"\b(Read|Write|Zero|Trim|Flush)\b(.*) \.\.\.$",
                                                  file.read(), re.M)]

def since(mark):
    return requests()[mark:]

def place(request):
    return int(re.search(r"offset=0x([0-9a-f]+)", request[1])[1], 16)

# B2: bits of the bitmap are written and flushed before any data.
mark = len(requests())
h.pwrite(b"d" * 65536, 0)
calls = [call for call in since(mark) if call[0] in ("Write", "Flush")]
names = [name for name, _ in calls]
assert names[0] == "Write" and "Flush" in names and names[-1] == "Write", calls
early = [place(call) for call in calls[:names.index("Flush")]]
assert place(calls[-1]) not in early, calls

# A flush comes after the last write, for mapping too: then nothing is left.
mark = len(requests())
h.flush()
names = [name for name, _ in since(mark)]
assert names[-1] == "Flush", names
assert "Write" in names, names  # the mapping

# An overwrite with FUA: its data, a flush, then the answer.
mark = len(requests())
h.pwrite(b"e" * 512, 1024, nbd.CMD_FLAG_FUA)
assert [name for name, _ in since(mark)] == ["Write", "Flush"], since(mark)

# One that needs a new cluster, zero and trim with FUA: a flush is the last, but
# for holes, which are punched only when it is durable that nobody needs them.
for request in [lambda: h.pwrite(b"f" * 512, 1 << 20, nbd.CMD_FLAG_FUA),
                lambda: h.zero(65536, 0, nbd.CMD_FLAG_FUA),
                lambda: h.trim(65536, 1 << 20, nbd.CMD_FLAG_FUA)]:
    mark = len(requests())
    request()
    names = [name for name, _ in since(mark)]
    while names and names[-1] == "Trim":
        names.pop()
    assert names and names[-1] == "Flush", names

# Without FUA and without allocation nothing is flushed.
h.pwrite(b"g" * 65536, 2 << 20, nbd.CMD_FLAG_FUA)
mark = len(requests())
h.pwrite(b"h" * 65536, 2 << 20)
assert [name for name, _ in since(mark)] == ["Write"]
h.shutdown()
PYTHON
stop
check_image disk.qcow2

step "flushed data are there after kill -9"
make_qcow2 disk.qcow2 64M
serve file disk.qcow2 bitmap=b0
client <<'PYTHON'
h.pwrite(b"a" * 100000, 12345)
h.zero(65536, 1 << 20)
h.flush()
h.pwrite(b"b" * 100000, 30 << 20, nbd.CMD_FLAG_FUA)
h.pwrite(b"not flushed", 50 << 20)
os.kill(int(open("main.pid").read()), 9)
PYTHON
kill_server
check_image_leaks_at_worst disk.qcow2
same "$(bitmap_info disk.qcow2 b0)" "65536 auto"
qemu-io -r -f qcow2 -c 'read -P 0x61 12345 100000' -c 'read -P 0x62 30M 100000' disk.qcow2 >io.out
! grep -q 'verification failed' io.out || fail "$(cat io.out)"
