#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Entries of tables that cannot be: the places they stand for give an error that names
# them, nothing is written through them, and the rest of the disk works.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

# One L2 table; its entries are those of the guest's first clusters.
make_qcow2 good.qcow2 64M
qemu-io -f qcow2 -c 'write -P 0x41 0 1M' good.qcow2 >/dev/null
l1=$(peek good.qcow2 40 8)
l2=$(($(peek good.qcow2 "$l1" 8) & 0x00fffffffffffe00))
refcount_table=$(peek good.qcow2 48 8)
refcount_block=$(peek good.qcow2 "$refcount_table" 8)

# wrong MESSAGE [READ_ERROR]: the first cluster cannot be read (EIO), or can; it
# is not written, or the disk not at all; the others are as they were.
wrong()
{
    step "$1"
    local before=$(sha256sum <bad.qcow2)
    serve file bad.qcow2 qcow2-control=main.qmp
    client main "${2:-EIO}" <<'PYTHON'
control = Qmp("main.qmp")
if sys.argv[1] == "EIO":
    fails(errno.EIO, h.pread, 4096, 0)
else:
    h.pread(4096, 0)
try:
    h.pwrite(b"x" * 4096, 0)
    raise AssertionError("was written")
except nbd.Error as error:
    assert error.errnum in (errno.EIO, errno.EPERM), error
if sys.argv[1] == "readable":
    assert control.event("BLOCK_IMAGE_CORRUPTED")["fatal"]
    status = control.do("query-status")
    assert status["status"] == "io-error" and status["disk"]["error"], status
assert h.pread(65536, 131072) == b"A" * 65536
h.shutdown()
PYTHON
    is_running || fail "the server has gone"
    stop
    server_said "$1"
    if [ "${2:-}" = readable ]; then  # the corrupt bit is all that was written
        same "$(($(peek bad.qcow2 72 8)))" 2
        poke bad.qcow2 72 8 0
    fi
    if [ -n "$out_of_reach" ]; then  # and so was this
        same "$(od -A n -t x8 --endian=big -j "$l2" -N 8 bad.qcow2 | tr -d ' ')" "${out_of_reach#0x}"
        poke bad.qcow2 "$l2" 8 0x8000100000000000
    fi
    same "$(sha256sum <bad.qcow2)" "$before"
}
out_of_reach=

bad() { cp good.qcow2 bad.qcow2; poke bad.qcow2 "$@"; }

# (W7: the name that leads behind the end stays so, however far the file grows.)
bad "$l2" 8 0x8080100000000000
wrong 'a cluster lies past the end of the file .*0x100000000000'
bad "$l2" 8 0x8000100000000000
out_of_reach=0x0080100000000000
wrong 'a cluster lies past the end of the file .*0x100000000000'
out_of_reach=
bad "$l2" 8 0x8000000000050200
wrong 'an L2 entry names a cluster that is not cluster aligned'
bad "$l2" 8 0x8000000000050002
wrong 'an L2 entry has reserved bits set'
bad "$l2" 8 0xbf00000000050000
wrong 'an L2 entry has reserved bits set'
# Onto the L1 table, the refcount table and block, the L2 table. (0 does not mean
# the header: that is no cluster at all.)
for host in "$l1" "$refcount_table" "$refcount_block" "$l2"; do
    bad "$l2" 8 "$(printf '0x%x' $((0x8000000000000000 | host)))"
    wrong 'a guest cluster is mapped onto metadata of the image' readable
done

step "L1 entries"
for entry in 0x8000100000000000 0x8000000000050200 0x8000000000050001; do
    cp good.qcow2 bad.qcow2
    # The second L2 table, of the second half GiB: there is one for each.
    poke bad.qcow2 "$l1" 8 $entry
    before=$(sha256sum <bad.qcow2)
    serve file bad.qcow2
    client <<'PYTHON'
fails(errno.EIO, h.pread, 4096, 0)
try:
    h.pwrite(b"x" * 4096, 0)
    raise AssertionError("was written")
except nbd.Error as error:
    assert error.errnum in (errno.EIO, errno.EPERM), error
h.shutdown()
PYTHON
    is_running || fail "the server has gone"
    stop
    server_said 'L1 table|L1 entry|L2 table'
    same "$(sha256sum <bad.qcow2)" "$before"
done

step "refcount table entries"
for entry in 0x100000000000 0x50200 0x50001 "$l1"; do
    cp good.qcow2 bad.qcow2
    poke bad.qcow2 "$refcount_table" 8 "$entry"
    before=$(sha256sum <bad.qcow2)
    serve file bad.qcow2
    client <<'PYTHON'
assert h.pread(65536, 131072) == b"A" * 65536
try:
    h.pwrite(b"x" * 4096, 32 << 20)
    raise AssertionError("was written")
except nbd.Error as error:
    assert error.errnum in (errno.EIO, errno.EPERM), error
h.shutdown()
PYTHON
    is_running || fail "the server has gone"
    stop
    server_said 'refcount'
    same "$(sha256sum <bad.qcow2)" "$before"
done

step "refcounts that are 0 for what is in use: it is not given away again"
cp good.qcow2 bad.qcow2
"$PYTHON" - "$refcount_block" <<'PYTHON'
import sys
with open("bad.qcow2", "r+b") as file:
    file.seek(int(sys.argv[1]))
    file.write(bytes(2 * 12))
PYTHON
serve file bad.qcow2
client <<'PYTHON'
try:
    for i in range(20):
        h.pwrite(b"x" * 65536, (32 << 20) + i * 65536)
except nbd.Error as error:
    assert error.errnum in (errno.EIO, errno.EPERM), error
assert h.pread(1 << 20, 0) == b"A" * (1 << 20)
h.shutdown()
PYTHON
is_running || fail "the server has gone"
kill "${server_pids[main]}"
forget main || true
