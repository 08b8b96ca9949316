#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Several clients write, zero, trim and read the same places at the same time.
# Sectors are never torn, what one has written all see, and the bitmap is exact.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

make_qcow2 disk.qcow2 256M cluster_size=64k
serve file disk.qcow2 bitmap=b0
client <<'PYTHON'
import random, struct, threading, time

# Requests are sectors of one stamp each: the sector's number and who wrote it.
# They lie in two MiB, so that they meet all the time, also within clusters.
sectors = 4096
clients = 5
seconds = 2.5
seed = int.from_bytes(os.urandom(4), "big")
problems = []

def check(data, first):
    for i in range(0, len(data), 512):
        sector = data[i:i + 512]
        if sector == bytes(512):
            continue
        number, who = struct.unpack("<QQ", sector[:16])
        if sector != sector[:16] * 32 or number != first + i // 512 or who >= clients:
            raise AssertionError("sector %d: %s" % (first + i // 512, sector[:64].hex()))

# A request has come back, with data or without. (1: that is all of it.)
def done(error, buffer=None, first=None):
    try:
        assert error.value == 0, os.strerror(error.value)
        if buffer:
            check(buffer.to_bytearray(), first)
    except AssertionError as problem:
        problems.append(problem)
    return 1

def body(me, handle):
    draw = random.Random(seed * 10 + me)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for i in range(12):
            first = draw.randrange(sectors)
            count = min(draw.choice([1, 1, 3, 8, 100, 128, 300]), sectors - first)
            what = draw.random()
            if what < 0.6:
                data = b"".join(struct.pack("<QQ", n, me) * 32 for n in range(first, first + count))
                handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), first * 512, done)
            elif what < 0.7:
                handle.aio_zero(count * 512, first * 512, done)
            elif what < 0.75:
                handle.aio_trim(count * 512, first * 512, done)
            else:
                buffer = nbd.Buffer(count * 512)
                handle.aio_pread(buffer, first * 512,
                                 lambda error, b=buffer, f=first: done(error, b, f))
        while handle.aio_in_flight() > 4:
            handle.poll(-1)
    while handle.aio_in_flight():
        handle.poll(-1)

def run(me):
    try:
        handle = h if me == 0 else connect()
        body(me, handle)
        if me:
            handle.shutdown()
    except BaseException as problem:
        problems.append(problem)

threads = [threading.Thread(target=run, args=(me,)) for me in range(clients)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if problems:
    print("seed", seed, file=sys.stderr)
    raise problems[0]

# What one has written, another sees at once.
other = connect()
for i in range(200):
    h.pwrite(struct.pack("<QQ", i, 0) * 32, i * 512)
    assert other.pread(512, i * 512) == struct.pack("<QQ", i, 0) * 32
other.shutdown()
whole = h.pread(sectors * 512, 0)
check(whole, 0)
with open("twin.raw", "wb") as file:
    file.write(whole)
h.shutdown()
PYTHON
stop
check_image disk.qcow2
truncate -s 256M twin.raw
same_disk disk.qcow2 twin.raw
same "$(dirty_map b0 disk.qcow2)" "0+2097152"
