# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# For tests of stores that do not grow.

# fill [SERVER] [REQUEST_BYTES]: writes to new places until there is no room. The
# guest must get ENOSPC, and then nothing is harmed: all that was written is
# there, overwrites, zeros, flush, reads and block status work, and a trim makes
# room again. Leaves the plain twin of the disk in twin.raw, and what the bitmaps
# must at least have set in touched, OFFSET LENGTH, one a line.
fill()
{
    client "${1:-main}" "${2:-200000}" <<'PYTHON'
import mmap
import random

request = int(sys.argv[1])
size = h.get_size()
_, cluster, _ = [h.get_block_size(n) for n in
                 (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM)]
draw = random.Random(1)
twin = mmap.mmap(-1, size)  # what the disk holds
touched = []

def pieces(offset, length):
    for at in range(offset, offset + length, 1 << 20):
        yield at, min(1 << 20, offset + length - at)

for offset, length, kind in extents(h, 0, size):
    if not kind & nbd.STATE_ZERO:
        for at, piece in pieces(offset, length):
            twin[at:at + piece] = bytes(h.pread(piece, at))

# Of what was refused some may be there, sector by sector; no sector is anything
# else than old or new.
def refused(offset, data):
    found = bytes(h.pread(len(data), offset))
    for i in range(0, len(data), 512):
        assert found[i:i + 512] in (data[i:i + 512], twin[offset + i:offset + i + 512]), \
            "sector %d is neither old nor new" % ((offset + i) // 512)
    twin[offset:offset + len(data)] = found

def write(offset, length):
    data = draw.randbytes(16) * (length // 16)
    touched.append((offset, length))
    try:
        h.pwrite(data, offset)
    except nbd.Error as error:
        assert error.errnum == errno.ENOSPC, error
        refused(offset, data)
        return False
    twin[offset:offset + length] = data
    return True

def check():
    for at, piece in pieces(0, size):
        assert h.pread(piece, at) == twin[at:at + piece], "MiB %d" % (at >> 20)

places = list(range(0, size - request, request + 3 * cluster // 512 * 512))
draw.shuffle(places)
request -= request % 512
done = []
for place in places:
    place -= place % 512
    if not write(place, request):
        break
    done.append(place)
else:
    raise AssertionError("there was room for all of it")
print("full after %d requests of %d bytes" % (len(done), request))
check()

# Full is full, also for another. What is there can be written over.
other = connect()
try:
    other.pwrite(b"n" * request, places[-1] // 512 * 512)
    raise AssertionError("there was room")
except nbd.Error as error:
    assert error.errnum == errno.ENOSPC, error
touched.append((places[-1] // 512 * 512, request))
refused(touched[-1][0], b"n" * request)
other.shutdown()
for place in done[:20]:
    assert write(place, request), "an overwrite needs no room"
if h.can_flush():
    h.flush()
check()
assert sum(length for _, length, _ in extents(h, 0, size)) == size

# A trim makes room, without a flush of the client's.
if len(done) >= 4:
    for place in done[:3]:
        begin = -(-place // cluster) * cluster
        end = (place + request) // cluster * cluster
        if begin < end:
            h.trim(end - begin, begin)
            touched.append((begin, end - begin))
            twin[begin:end] = bytes(end - begin)
    assert write(done[0], request), "no room after a trim"
    check()
if h.can_flush():
    h.flush()
h.shutdown()
with open("twin.raw", "wb") as file:
    file.truncate(size)
    for at, piece in pieces(0, size):
        if twin[at:at + piece] != bytes(piece):
            file.seek(at)
            file.write(twin[at:at + piece])
with open("touched", "w") as file:
    for offset, length in touched:
        print(offset, length, file=file)
PYTHON
}

# dirty_covers_touched NAME FILE: a bitmap may have more than was touched where
# there was no room for it, but never less, and QEMU can use it.
dirty_covers_touched()
{
    local flags
    flags=$(bitmap_info "$2" "$1")
    same "${flags#* }" auto "the flags of $1"
    dirty_map "$1" "$2" >dirty
    "$PYTHON" - <<'PYTHON'
dirty = [tuple(map(int, line.split("+"))) for line in open("dirty")]
for line in open("touched"):
    offset, length = map(int, line.split())
    for begin, size in dirty:
        if begin <= offset < begin + size:
            # Neighbours are joined, so that one must hold all of it.
            assert offset + length <= begin + size, line
            break
    else:
        raise AssertionError("not dirty: " + line)
PYTHON
}
