#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# While a file is served it gets another name, its name gets another file, or the
# symbolic link that led to it is switched: it grows all the same, and what has the name
# now keeps every byte. And it grows where no descriptor is left.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

# use FILE: a client writes 30M, in what is served as main.
use()
{
    client <<'PYTHON'
import random
pieces = [(random.Random(i).randbytes(3000000), i * 5000000) for i in range(10)]
for data, offset in pieces:
    h.pwrite(data, offset)
h.flush()
h.trim(65536, 1000000)
h.zero(200000, 2000000)
h.pwrite(b"t" * 65536, 1000000)
pieces[0] = (pieces[0][0][:1000000] + b"t" * 65536 + pieces[0][0][1065536:2000000] + bytes(200000) +
             pieces[0][0][2200000:], 0)
for data, offset in pieces:
    assert h.pread(len(data), offset) == data, offset
with open("twin.raw", "wb") as twin:
    twin.truncate(64 << 20)
    for data, offset in pieces:
        twin.seek(offset)
        twin.write(data)
h.flush()
h.shutdown()
PYTHON
    stop
    [ "$(length_of "$1")" -gt 30000000 ] || fail "$1 has not grown"
    check_image "$1"
    same_disk "$1" twin.raw
    same "$(bitmap_info "$1" b0)" "65536 auto"
    [ -n "$(dirty_map b0 "$1")" ] || fail "nothing is dirty"
}
begin() { client <<<'h.pwrite(b"x" * 100000, 0); h.flush(); h.shutdown()'; }

step "another name"
make_qcow2 disk.qcow2 64M
serve file disk.qcow2 bitmap=b0
begin
mv disk.qcow2 moved.qcow2
use moved.qcow2

step "another name, and another file of its own name"
make_qcow2 disk.qcow2 64M
make_qcow2 new.qcow2 64M
serve file disk.qcow2 bitmap=b0
begin
ln disk.qcow2 old.qcow2
# As long as the old one: the size alone would not tell.
truncate -s "$(length_of disk.qcow2)" new.qcow2
mv new.qcow2 disk.qcow2
before=$(file_state disk.qcow2)
use old.qcow2
same "$(file_state disk.qcow2)" "$before"

step "a symbolic link that is switched"
make_qcow2 one.qcow2 64M
make_qcow2 two.qcow2 64M
before=$(file_state two.qcow2)
ln -s one.qcow2 link.qcow2
serve file link.qcow2 bitmap=b0
begin
ln -sfn two.qcow2 link.qcow2
use one.qcow2
same "$(file_state two.qcow2)" "$before"

step "between start and the first client: what has the name now is served"
make_qcow2 disk.qcow2 64M
serve file disk.qcow2
make_qcow2 new.qcow2 32M
mv new.qcow2 disk.qcow2
client <<'PYTHON'
assert h.get_size() == 32 << 20
h.pwrite(b"z" * 1000000, 0)
h.shutdown()
PYTHON
# And it is locked, as we hold it.
! qemu-img info disk.qcow2 >/dev/null 2>&1 || fail "qemu-img info was not kept away"
stop
check_image disk.qcow2
qemu-io -r -f qcow2 -c 'read -P 0x7a 0 1000000' disk.qcow2 >io.out
! grep -q 'verification failed' io.out || fail "$(cat io.out)"

step "so many clients that no descriptor is left"
make_qcow2 disk.qcow2 64M
serve file disk.qcow2 bitmap=b0
client main "${server_pids[main]}" <<'PYTHON'
import resource
server = int(sys.argv[1])
handles = [h] + [connect() for _ in range(12)]
taken = {int(name) for name in os.listdir(f"/proc/{server}/fd")}
first_free = min(set(range(len(taken) + 1)) - taken)
before = resource.prlimit(server, resource.RLIMIT_NOFILE)
resource.prlimit(server, resource.RLIMIT_NOFILE, (first_free, before[1]))
print(first_free, "descriptors")
for i, handle in enumerate(handles):
    handle.pwrite(bytes([i + 1]) * (2 << 20), i * (2 << 20))
h.flush()
for i in range(len(handles)):
    assert handles[-1 - i].pread(2 << 20, i * (2 << 20)) == bytes([i + 1]) * (2 << 20)
resource.prlimit(server, resource.RLIMIT_NOFILE, before)
for handle in handles:
    handle.shutdown()
PYTHON
# Now there are some again.
client <<'PYTHON'
h.pwrite(b"z" * (12 << 20), 50 << 20)
for i in range(13):
    assert h.pread(2 << 20, (12 - i) * (2 << 20)) == bytes([13 - i]) * (2 << 20)
h.shutdown()
PYTHON
stop
check_image disk.qcow2
same "$(bitmap_info disk.qcow2 b0)" "65536 auto"
qemu-io -r -f qcow2 -c 'read -P 0x7a 50M 12M' disk.qcow2 >io.out
! grep -q 'verification failed' io.out || fail "$(cat io.out)"
