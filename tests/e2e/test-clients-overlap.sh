#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Several clients write, zero, trim and read the same places at the same time.
# Sectors are never torn, what one has written all see, and the bitmap is exact.
#
# That a read which meets a write finds no torn sector is more than a file does:
# the kernel copies page by page, with nothing held between reader and writer
# (`nbdkit file` and qemu-nbd show it in this very test), and so does the memory
# plugin of newer versions. Hence a plugin of our own, which says that it is
# parallel and does requests one by one: over it there is nobody to tear a sector
# but the filter.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

[ -n "${CXX-}" ] && [ -n "${PROJECT_CXXFLAGS-}" ] || skip "needs CXX and PROJECT_CXXFLAGS: run it by make check"

cat >one-by-one.cpp <<'PLUGIN'
#include <cstdint>
#include <cstring>
#include <mutex>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

namespace {

constexpr std::int64_t size = 512 << 20;
char memory[size];
std::mutex mutex;

void *open_memory(int) { return memory; }
std::int64_t get_size(void *) { return size; }
int can_multi_conn(void *) { return 1; }
int can_flush(void *) { return 1; }
int flush_memory(void *, std::uint32_t) { return 0; }

int pread(void *, void *bytes, std::uint32_t count, std::uint64_t offset, std::uint32_t)
{
    const std::lock_guard<std::mutex> lock(mutex);
    std::memcpy(bytes, memory + offset, count);
    return 0;
}

int pwrite(void *, const void *bytes, std::uint32_t count, std::uint64_t offset, std::uint32_t)
{
    const std::lock_guard<std::mutex> lock(mutex);
    std::memcpy(memory + offset, bytes, count);
    return 0;
}

nbdkit_plugin make_plugin()
{
    nbdkit_plugin plugin = nbdkit_plugin();
    plugin.name = "onebyone";
    plugin.open = open_memory;
    plugin.get_size = get_size;
    plugin.can_multi_conn = can_multi_conn;
    plugin.can_flush = can_flush;
    plugin.flush = flush_memory;
    plugin.pread = pread;
    plugin.pwrite = pwrite;
    return plugin;
}

nbdkit_plugin plugin = make_plugin();

}  // namespace

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL
NBDKIT_REGISTER_PLUGIN(plugin)
PLUGIN
$CXX $PROJECT_CXXFLAGS -fPIC -shared -o one-by-one.so one-by-one.cpp

# overlap: "whole" if a sector read while it is written is the old or the new
# one; "words" if that is so for each 8 bytes of it.
overlap()
{
    client main "$1" <<'PYTHON'
import random, struct, sys, threading, time

# Requests are sectors of one stamp each: the sector's number and who wrote it.
# They lie in two MiB, so that they meet all the time, also within clusters.
sectors = 4096
clients = 5
seconds = 2.5
seed = int.from_bytes(os.urandom(4), "big")
whole = sys.argv[1] == "whole"
problems = []

def is_whole(sector, number):
    if sector == bytes(512):
        return True
    found, who = struct.unpack("<QQ", sector[:16])
    return sector == sector[:16] * 32 and found == number and who < clients

def has_our_words(sector, number):
    words = struct.unpack("<64Q", sector)
    return all(n in (0, number) for n in words[::2]) and all(who < clients for who in words[1::2])

def check(data, first, sector_is_right):
    for i in range(0, len(data), 512):
        sector, number = bytes(data[i:i + 512]), first + i // 512
        if not sector_is_right(sector, number):
            raise AssertionError("sector %d: %s" % (number, sector.hex()))

# A request has come back, with data or without. (1: that is all of it.)
def done(error, buffer=None, first=None):
    try:
        assert error.value == 0, os.strerror(error.value)
        if buffer:
            check(buffer.to_bytearray(), first, is_whole if whole else has_our_words)
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
# Now that nobody writes, each sector is what one of them has written.
content = h.pread(sectors * 512, 0)
check(content, 0, is_whole)
with open("twin.raw", "wb") as file:
    file.write(content)
h.shutdown()
PYTHON
}

serve "$tmp/one-by-one.so" qcow2-create=256M
overlap whole
stop

make_qcow2 disk.qcow2 256M cluster_size=64k
serve file disk.qcow2 bitmap=b0
overlap words
stop
check_image disk.qcow2
truncate -s 256M twin.raw
same_disk disk.qcow2 twin.raw
same "$(dirty_map b0 disk.qcow2)" "0+2097152"
