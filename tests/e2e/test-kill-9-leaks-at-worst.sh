#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# kill -9 at any moment of a busy life: qemu-img check finds leaks at worst, what was
# flushed is there, and the bitmap is valid; with on-close it says that it was in use. A
# few moments, drawn anew each time.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

seed=${SEED:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}
echo "to repeat: SEED=$seed"
for round in 1 2 3 4 5 6 7 8; do
    # The last two with on-close, and never idle.
    sync=durable idle_ms=30 expected="65536 auto"
    [ "$round" -le 6 ] || sync=on-close idle_ms=60000 expected="65536 in-use,auto"
    make_qcow2 disk.qcow2 64M "cluster_size=$([ $((round % 2)) = 0 ] && echo 512 || echo 65536)"
    qemu-img bitmap --add -g 65536 disk.qcow2 b0
    IDLE_MS=$idle_ms serve file disk.qcow2 bitmap-sync=$sync
    client main "$seed" "$round" <<'PYTHON'
import random, threading, time

draw = random.Random(int(sys.argv[1]) * 100 + int(sys.argv[2]))
pid = int(open("main.pid").read())
# Each of two clients has its half of the disk, writes in it, and flushes. What
# was acknowledged before a flush that was, and not touched after, must be there.
half = 32 << 20
flushed = {}
def work(handle, base, draw):
    pending = {}
    try:
        while True:
            offset = base + draw.randrange(half // 4096 - 40) * 4096
            length = draw.choice([1, 2, 30]) * 4096
            what = draw.random()
            if what < 0.75:
                data = draw.randbytes(8) * (length // 8)
                for page in range(offset, offset + length, 4096):
                    flushed.pop(page, None)
                handle.pwrite(data, offset)
                for page in range(offset, offset + length, 4096):
                    pending[page] = data[:4096]
            elif what < 0.9:
                for page in range(offset, offset + length, 4096):
                    flushed.pop(page, None)
                    pending.pop(page, None)
                (handle.zero if what < 0.8 else handle.trim)(length, offset)
            else:
                handle.flush()
                flushed.update(pending)
                pending = {}
                if draw.random() < 0.2:
                    time.sleep(0.06)  # idle, now and then
    except nbd.Error:
        pass  # killed

h.pwrite(b"first" * 100, half - 512)
threads = [threading.Thread(target=work, args=(handle, base, random.Random(draw.random())))
           for handle, base in [(h, 0), (connect(), half)]]
for thread in threads:
    thread.start()
time.sleep(0.1 + draw.random() * 0.7)
os.kill(pid, 9)
for thread in threads:
    thread.join()
import pickle
pickle.dump(flushed, open("flushed", "wb"))
PYTHON
    kill_server
    check_image_leaks_at_worst disk.qcow2
    info=$(bitmap_info disk.qcow2 b0)
    same "$info" "$expected" "the bitmap, with $sync"
    # QEMU reads it.
    qemu-img convert -f qcow2 -O raw disk.qcow2 now.raw
    "$PYTHON" - "$info" "$round" <<'PYTHON'
import pickle, sys
flushed = pickle.load(open("flushed", "rb"))
with open("now.raw", "rb") as file:
    for page, data in flushed.items():
        file.seek(page)
        assert file.read(4096) == data, "the page at %d was flushed and is not there" % page
print("round %s: %d flushed pages are there; bitmap %s" % (sys.argv[2], len(flushed), sys.argv[1]))
PYTHON
    # And so do we; what leaked can be mended.
    serve file disk.qcow2
    client <<<'h.pwrite(b"again", 0); h.shutdown()'
    stop
    check_image_leaks_at_worst disk.qcow2
    qemu-img check -q -r leaks -f qcow2 disk.qcow2 >/dev/null
    qemu-img check -q -f qcow2 disk.qcow2
done
