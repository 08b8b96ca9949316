#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# nbdkit answers SIGTERM by waiting for its clients, and does not tell a filter
# of it; then somebody kills it. A disk that has been idle for a while is by
# then as a clean stop leaves it: no leaks, bitmaps exact and valid. And the
# next write takes that back before it is done.

import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403


def flags(path, name="b"):
    return Qcow2File(path).bitmaps()[name].flags


# So the flags tell what it is doing. (Where they are to say that it is busy, it
# settles when it is asked to, not when the machine has let some time pass.)
ON_CLOSE = ("bitmap-sync=on-close",)


def wait_until_idle(path, seconds=100):
    """Until the bitmaps are stored, and then what was reserved is given back."""
    for _ in range(seconds * 50):
        if flags(path) == AUTO:
            done = subprocess.run(["qemu-img", "check", "-U", "-f", "qcow2", path],
                                  capture_output=True, timeout=PATIENCE)
            if done.returncode == 0:
                return
        time.sleep(0.02)
    raise Wrong(f"it is not idle yet, flags {flags(path)}: " +
                run("qemu-img", "check", "-U", "-f", "qcow2", path, status=(0, 1, 2, 3)))


def image(t, cluster, size):
    path = t.path("disk.qcow2")
    create(path, size, f"cluster_size={cluster}")
    add_bitmap(path, "b", 4 * KiB)
    return path


def is_clean(t, path, model, dirty):
    """As after a clean stop, but for the length of the file."""
    check(path)
    compare(path, model.to_raw(t.path("disk.raw")))
    same(flags(path), AUTO, "flags")
    expect_bitmap(t, path, "b", granules(dirty, 4 * KiB, model.size), "after kill -9")


@cases({"4K": (4 * KiB, 20 * MiB), "64K": (64 * KiB, 40 * MiB), "512": (512, 2 * MiB)})
def sigterm_with_clients_then_kill(t, cluster, size):
    path = image(t, cluster, size)
    model, draw = Model(size), Operations(t.rng, size, cluster)
    server = Nbdkit(t, path, *ON_CLOSE, idle_ms="asked")
    clients = [server.connect() for _ in range(3)]
    dirty = []
    # Nothing of this is flushed by a client at its end.
    for h in clients:
        ops = draw.take(30) + [Op("write", t.rng.randrange(size - 5000), 5000, 0, 7)]
        apply_all(ops, h, model, cluster)
        dirty = join(dirty + touched(ops))
    same(flags(path), IN_USE | AUTO, "flags while there are writes")
    server.process.send_signal(signal.SIGTERM)
    server.ask_to_settle()
    wait_until_idle(path)
    expect(server.process.poll() is None, "nbdkit has stopped with clients connected")
    server.kill()
    is_clean(t, path, model, dirty)


@case
def after_the_time_that_is_the_default(t):
    path, size = image(t, 64 * KiB, 20 * MiB), 20 * MiB
    model, draw = Model(size), Operations(t.rng, size, 64 * KiB)
    server = Nbdkit(t, path, *ON_CLOSE, idle_ms=None)
    h = server.connect()
    ops = draw.take(30) + [Op("write", MiB, 100 * KiB, 0, 5)]
    apply_all(ops, h, model, 64 * KiB)
    server.process.send_signal(signal.SIGTERM)
    wait_until_idle(path)
    server.kill()
    is_clean(t, path, model, touched(ops))


def clean_place(dirty, size):
    """Of a granule that the file does not have yet: a write there needs the mark."""
    ranges = granules(dirty, 4 * KiB, size)
    return next(at for at in range(0, size, 4 * KiB)
                if not any(begin <= at < end for begin, end in ranges))


@case
def idle_and_busy_again(t):
    path, size, cluster = image(t, 4 * KiB, 20 * MiB), 20 * MiB, 4 * KiB
    model, draw = Model(size), Operations(t.rng, size, cluster)
    dirty = []
    server = Nbdkit(t, path, *ON_CLOSE, idle_ms="asked")
    h = server.connect()
    for number in range(6):
        ops = draw.take(20)
        ops.append(Op("write", clean_place(join(dirty + touched(ops)), size), 3000, 0, number))
        apply_all(ops, h, model, cluster)
        # Before the write was answered.
        same(flags(path), IN_USE | AUTO, "flags after a write")
        dirty = join(dirty + touched(ops))
        server.ask_to_settle()
        wait_until_idle(path)
        found = Qcow2File(path).dirty(Qcow2File(path).bitmaps()["b"])
        same(found, granules(dirty, 4 * KiB, size), "the bitmap, idle")
        if number % 2:
            # A new server on what an idle one has left.
            server.kill()
            is_clean(t, path, model, dirty)
            server = Nbdkit(t, path, *ON_CLOSE, idle_ms="asked")
            h = server.connect()
            read_all(h, model, "read by the next server")
    # And killed when it is not idle.
    h.pwrite(b"x", clean_place(dirty, size))
    server.kill()
    same(flags(path), IN_USE | AUTO, "flags after a write and kill -9")
    check(path, leaks=True)


@case
def reading_does_not_keep_it_busy(t):
    path, size, cluster = image(t, 64 * KiB, 20 * MiB), 20 * MiB, 64 * KiB
    model, draw = Model(size), Operations(t.rng, size, cluster)
    server = Nbdkit(t, path, *ON_CLOSE, idle_ms=200)
    ops = draw.take(30) + [Op("write", MiB, 100 * KiB, 0, 5)]
    apply_all(ops, server.connect(), model, cluster)
    reads, stop = [0], threading.Event()

    def read(h):
        while not stop.is_set():
            for at in range(0, size - MiB, MiB):
                expect_bytes(h.pread(10000, at), model.read(at, 10000), at, "read meanwhile")
                reads[0] += 1
            h.block_status(size, 0, lambda *_: 0)
            h.flush()

    thread = threading.Thread(target=read, args=(server.connect("base:allocation"),), daemon=True)
    thread.start()
    try:
        wait_until_idle(path)
    finally:
        stop.set()
        thread.join(timeout=PATIENCE)
    expect(reads[0] > 10, "nothing was read")
    server.kill()
    is_clean(t, path, model, touched(ops))


@case
def the_last_client_goes_after_sigterm(t):
    path, size, cluster = image(t, 64 * KiB, 20 * MiB), 20 * MiB, 64 * KiB
    model, draw = Model(size), Operations(t.rng, size, cluster)
    server = Nbdkit(t, path)
    h = server.connect()
    ops = draw.take(30) + [Op("write", MiB, 100 * KiB, 0, 5)]
    apply_all(ops, h, model, cluster)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    server.leave()
    server.wait()
    check_cut(path)
    is_clean(t, path, model, touched(ops))


@case
def qemu_is_kept_off_while_it_is_idle(t):
    # Valid bitmaps in a file that is being served: the lock is what keeps others
    # from trusting them too early.
    path, size = image(t, 64 * KiB, 20 * MiB), 20 * MiB
    server = Nbdkit(t, path, *ON_CLOSE, idle_ms=60)
    h = server.connect()
    h.pwrite(payload(0, MiB, 1), 0)
    wait_until_idle(path)
    said = run("qemu-img", "bitmap", "--add", path, "other", status=1)
    expect("lock" in said, said)
    said = run("qemu-img", "info", path, status=1)
    expect("lock" in said, said)
    server.kill()
    run("qemu-img", "bitmap", "--add", path, "other")


main()
