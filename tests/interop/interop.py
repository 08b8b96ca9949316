# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# For the tests in this folder: QEMU and we work on the same files. A test is a
# program of cases,
#
#     @case
#     def what_is_shown(t): ...
#     main()
#
# run by `make check TESTS=interop/test-x.py`, or, with FILTER set, by
#
#     test-x.py [--seed N] [--list] [CASE...]
#
# The seed is printed with each failure; a case draws from t.rng alone, so that
# the seed and the name of the case repeat it. SEED=random draws one.
#
# QCOW2_EVERY=n: of each grid of cases every n-th, another one each day. CASE names any.

import bisect
import collections
import contextlib
import faulthandler
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback

os.environ["PATH"] = "/usr/bin:/bin:" + os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
os.environ["LC_ALL"] = "C"

try:
    import nbd
except ImportError:
    print("this Python has no module nbd")
    sys.exit(77)

from byte_ranges import *  # noqa: E402, F403
from judging import *  # noqa: E402, F403
from model import *  # noqa: E402, F403
from operations import *  # noqa: E402, F403
from programs import *  # noqa: E402, F403
from qcow2_file import *  # noqa: E402, F403
from servers import *  # noqa: E402, F403
from storage_daemon import Export, StorageDaemon  # noqa: E402

# Where a failure is said, and not where it is found.
_parts = {f"{name}.py" for name in (
    "byte_ranges", "interop", "judging", "model", "operations", "programs", "qcow2_file", "servers")}

_cases = []


def case(function):
    _cases.append((function.__name__, function, (), True))
    return function


def cases(named):
    """name -> arguments: one case each. A grid."""
    every = max(min(int(os.environ.get("QCOW2_EVERY") or 1), len(named)), 1)
    today = int(time.time() // 86400)

    def add(function):
        for number, (name, arguments) in enumerate(named.items()):
            _cases.append((f"{function.__name__}:{name}", function, arguments,
                           (number + today) % every == 0))
        return function
    return add


class Case:
    """What a case gets: a folder of its own, and where to draw from."""

    def __init__(self, name, seed, folder):
        self.name, self.folder = name, folder
        self.seed = seed
        self.rng = random.Random(f"{seed} {name}")

    def path(self, name):
        return os.path.join(self.folder, name)


def requires(*programs):
    for program in programs:
        if shutil.which(program) is None:
            print(f"{program} is missing")
            sys.exit(77)


def _too_long(name):
    print(f"{name}: takes longer than {Limits.case_seconds} s; its servers are killed", flush=True)
    faulthandler.dump_traceback(file=sys.stdout)
    kill_qemu()
    kill_children()


def main(case_seconds=0, in_memory=False):
    """`in_memory`: no case relies on the file system, and it costs less without its syncs."""
    Limits.case_seconds = max(Limits.case_seconds, case_seconds)
    requires("nbdkit", "qemu-img", "qemu-io", "qemu-nbd", "qemu-storage-daemon")
    if not os.path.exists(os.environ.get("FILTER", "")):
        print("FILTER does not name the filter: run this by make check TESTS=...")
        sys.exit(1)
    wanted, seed = sys.argv[1:], os.environ.get("SEED", "1")
    if wanted and wanted[0] == "--list":
        print("\n".join(name for name, *_ in _cases))
        return
    if len(wanted) >= 2 and wanted[0] == "--seed":
        seed, wanted = wanted[1], wanted[2:]
    if seed == "random":
        seed = str(random.SystemRandom().randrange(1 << 32))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    in_memory = in_memory and os.access("/dev/shm", os.W_OK)
    top = tempfile.mkdtemp(prefix="qcow2bitmap-interop.", dir="/dev/shm" if in_memory else None)
    print(f"seed {seed}")
    failed = count = left_out = 0
    try:
        for name, function, arguments, its_turn in _cases:
            if wanted and not any(name == w or name.startswith(w + ":") for w in wanted):
                continue
            if not wanted and not its_turn:
                left_out += 1
                continue
            count += 1
            folder = tempfile.mkdtemp(dir=top)
            t = Case(name, seed, folder)
            watchdog = threading.Timer(Limits.case_seconds, _too_long, (name,))
            watchdog.daemon = True
            watchdog.start()
            begun = time.monotonic()
            try:
                function(t, *arguments)
                print(f"ok {name} ({time.monotonic() - begun:.1f} s)", flush=True)
            except Exception as error:
                failed += 1
                end_qemu()  # with what is open
                print(f"FAILED {name}: {error}")
                if isinstance(error, Wrong):
                    at = [f for f in traceback.extract_tb(error.__traceback__)
                          if os.path.basename(f.filename) not in _parts]
                    print("".join(f"    {os.path.basename(f.filename)}:{f.lineno}: {f.line}\n"
                                  for f in at), end="")
                else:
                    traceback.print_exc(file=sys.stdout)
                print(f"    again: {sys.argv[0]} --seed {seed} {name}", flush=True)
                if os.environ.get("KEEP"):
                    print(f"    files: {shutil.copytree(folder, tempfile.mkdtemp() + '/case', ignore=lambda d, n: [x for x in n if x.endswith('.sock')])}")
            finally:
                watchdog.cancel()
                for child in list(children):
                    child.kill()
                    child.wait()
                    children.discard(child)
                shutil.rmtree(folder)
    finally:
        end_qemu()
        kill_children()
        shutil.rmtree(top, ignore_errors=True)
    expect(count + left_out, "there is no such case")
    print(f"{count - failed} of {count} cases passed, seed {seed}" +
          (f"; QCOW2_EVERY leaves out {left_out}" if left_out else ""))
    sys.exit(1 if failed else 0)
