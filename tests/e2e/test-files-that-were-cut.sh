#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# An image that was cut, at each of its structures and inside of them: refused at the
# prompt by an error that names the place, or served as far as it is there, with
# errors for the rest. Never as something else.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

make_qcow2 good.qcow2 64M cluster_size=4k
qemu-img bitmap --add -g 4096 good.qcow2 b0
qemu-io -f qcow2 -c 'write -P 0x41 0 40k' -c 'write -P 0x42 20M 40k' good.qcow2 >/dev/null
qemu-img snapshot -c snap good.qcow2
qemu-io -f qcow2 -c 'write -P 0x43 8k 40k' -c 'write -P 0x44 40M 40k' good.qcow2 >/dev/null
qemu-img convert -f qcow2 -O raw good.qcow2 plain.raw

# OFFSET NAME of each structure of the image, from the specification.
structures()
{
    "$PYTHON" - <<'PYTHON'
import struct
image = open("good.qcow2", "rb").read()
def u(at, size):
    return int.from_bytes(image[at:at + size], "big")
cluster = 1 << u(20, 4)
print(0, "nothing")
print(3, "magic")
print(6, "version")
print(100, "header")
print(130, "extensions")
print(u(40, 8), "L1-table")
print(u(40, 8) + 8, "L1-table-inside")
print(u(48, 8), "refcount-table")
print(u(u(48, 8), 8), "refcount-block")
print(u(u(48, 8), 8) + 512, "refcount-block-inside")
print(u(64, 8), "snapshot-table")
print(u(64, 8) + 20, "snapshot-table-inside")
for i in range(u(36, 4)):
    l2 = u(u(40, 8) + 8 * i, 8) & 0x00fffffffffffe00
    if l2:
        print(l2, "L2-table-%d" % i)
        print(l2 + 1000, "L2-table-%d-inside" % i)
        data = u(l2, 8) & 0x00fffffffffffe00
        if data:
            print(data + 100, "data-%d" % i)
at = 104 if u(100, 4) == 104 else 112
while u(at, 4):
    if u(at, 4) == 0x23852875:
        directory = u(at + 24, 8)
        print(directory, "bitmap-directory")
        print(directory + 10, "bitmap-directory-inside")
        print(u(directory, 8), "bitmap-table")
        print((u(u(directory, 8), 8) & 0x00fffffffffffe00) + 1, "bitmap-data")
    at += 8 + (u(at + 4, 4) + 7) // 8 * 8
print(len(image) - 1, "end")
PYTHON
}

structures | sort -n >cuts
cat cuts
[ "$(wc -l <cuts)" -ge 20 ] || fail "not all structures were found"
while read -r length name; do
    head -c "$length" good.qcow2 >cut.qcow2
    before=$(file_state cut.qcow2)
    rm -f main.sock
    status=0
    timeout "$patience" "${nbdkit_command[@]}" -U "$tmp/main.sock" --filter="$FILTER" \
        file cut.qcow2 --run true >main.log 2>&1 || status=$?
    message=$(head -n 1 main.log)
    case $status in
        0) echo "cut at $length ($name): served. $message" ;;
        1)
            echo "cut at $length ($name): refused. $message"
            grep -qE 'cut.qcow2: (header|.*at 0x)' main.log || fail "the message names no place"
            ;;
        *) fail "exit status $status" ;;
    esac
    same "$(file_state cut.qcow2)" "$before"
    [ $status -eq 0 ] || continue
    # What is read is right, or an error that names the place.
    serve file cut.qcow2
    client main "$name" "$length" <<'PYTHON'
problems = 0
plain = open("plain.raw", "rb")
for offset in [*range(0, 65536, 4096), *range(20 << 20, (20 << 20) + 65536, 4096),
               *range(40 << 20, (40 << 20) + 65536, 4096), 63 << 20]:
    plain.seek(offset)
    try:
        # Where the file ends inside a cluster, the rest of that reads as zeros:
        # QEMU writes such files.
        good = plain.read(4096)
        inside = int(sys.argv[2]) % 4096
        assert h.pread(4096, offset) in (good, good[:inside] + bytes(4096 - inside)), \
            "wrong data at %d" % offset
    except nbd.Error as error:
        assert error.errnum == errno.EIO, error
        problems += 1
# And it must not be made worse by a write.
try:
    h.pwrite(b"x" * 4096, 50 << 20)
    assert h.pread(4096, 50 << 20) == b"x" * 4096
except nbd.Error as error:
    assert error.errnum in (errno.EIO, errno.EPERM, errno.EINVAL), error
print(sys.argv[1], problems, "of 49 reads failed", "read-only" if h.is_read_only() else "")
h.shutdown()
PYTHON
    is_running || fail "the server has gone"
    kill "${server_pids[main]}"
    forget main || true
done <cuts

step "what is lost is told at the prompt, and stays an error when the file grows"
make_qcow2 whole.qcow2 64M
qemu-io -f qcow2 -c 'write -P 0x41 0 2M' -c 'write -P 0x42 32M 2M' whole.qcow2 >/dev/null
lost_from=$((33 << 20))
# Clusters of data lie one after the other at the end of the file.
head -c $(($(length_of whole.qcow2) - (1 << 20))) whole.qcow2 >cut.qcow2
end=$(printf '0x%x' "$(length_of cut.qcow2)")
before=$(file_state cut.qcow2)
serve -r file cut.qcow2
server_said "cut.qcow2: the file ends at $end, before what is counted in it: it was cut"
server_said '16 names lead behind its end, the first is L2 table at 0x40000, entry 528'
stop
same "$(file_state cut.qcow2)" "$before"
for life in first second; do
    serve file cut.qcow2
    [ "$life" != first ] || server_said "the file ends at $end, before what is counted in it: it was cut"
    client main "$lost_from" "$life" <<'PYTHON'
lost_from = int(sys.argv[1])
def lost():
    for offset in range(lost_from, lost_from + (1 << 20), 65536):
        fails(errno.EIO, h.pread, 512, offset)
        fails(errno.EIO, h.pwrite, bytes(512), offset)
lost()
if sys.argv[2] == "first":
    h.pwrite(b"x" * (8 << 20), 48 << 20)
    h.flush()
    lost()
assert h.pread(8 << 20, 48 << 20) == b"x" * (8 << 20)
assert h.pread(1 << 20, 32 << 20) == b"\x42" * (1 << 20)
PYTHON
    stop
    [ "$(length_of cut.qcow2)" -gt "$(length_of whole.qcow2)" ] || fail "the file has not grown"
    status=0
    qemu-img check -f qcow2 cut.qcow2 >check.log 2>&1 || status=$?
    same "$status" 2
    grep -q '^16 errors were found' check.log || fail "qemu-img check: $(cat check.log)"
done
