#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A client that asks for 4 KiB after 4 KiB, each when the one before is there, at places
# that are drawn, and notes when each was there. `stall.py URI read|write`; says "ready" on
# standard output, goes on until its standard input ends, and then says the moments:
# doubles, seconds of the clock that all processes have in common.

import array
import gc
import random
import sys
import threading
import time

import nbd

BYTES = 4096


def main():
    uri, what = sys.argv[1:]
    client = nbd.NBD()
    client.connect_uri(uri)
    blocks = client.get_size() // BYTES
    # Random places far ahead, so that nothing but the request takes time.
    places = [random.randrange(blocks) * BYTES for _ in range(1 << 16)]
    data = bytes([1]) * BYTES
    moments = array.array("d")
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    gc.disable()
    print("ready", flush=True)
    number = 0
    while not ended.is_set():
        place = places[number % len(places)]
        if what == "write":
            client.pwrite(data, place)
        else:
            client.pread(BYTES, place)
        moments.append(time.monotonic())
        number += 1
    sys.stdout.buffer.write(moments.tobytes())


main()
