# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Programs that are run to their end, and the one QEMU that stays.

import json
import os
import subprocess

from judging import PATIENCE, Wrong, expect
from storage_daemon import StorageDaemon


def environment_of(program):
    """What our filter needs if it was compiled with a sanitizer, and memory that
    is never zero by chance."""
    environment = dict(os.environ)
    if program == "nbdkit":
        for name, value in (("LD_PRELOAD", os.environ.get("SANITIZER_PRELOAD")),
                            ("MALLOC_PERTURB_", os.environ.get("FILTER_MALLOC_PERTURB"))):
            if value:
                environment[name] = value
    return environment


def run(*command, status=0, cwd=None):
    """Runs it; returns what it said. `status`: the exit status it must have, or
    several of which one."""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd, timeout=PATIENCE,
                          env=environment_of(command[0]))
    text = done.stdout.decode(errors="replace")
    if done.returncode not in (status if isinstance(status, tuple) else (status,)):
        raise Wrong(f"exit status {done.returncode}: {' '.join(map(str, command))}\n{text}")
    return text


def create(path, size, options=""):
    """qemu-img create -o OPTIONS."""
    words = ["-o", options] if options else []
    run("qemu-img", "create", "-q", "-f", "qcow2", *words, path, size)


_qemu = None


def qemu():
    """The QEMU that this test has."""
    global _qemu
    if _qemu is None:
        _qemu = StorageDaemon()
    return _qemu


def by_qemu(t, path):
    """In the place of Nbdkit: QEMU serves it."""
    return qemu().served(path)


def end_qemu():
    global _qemu
    if _qemu is not None:
        _qemu.kill()
        _qemu = None


def kill_qemu():
    """It may hang."""
    if _qemu is not None:
        _qemu.process.kill()


def add_bitmap(path, name, granularity=None, enabled=True):
    qemu().add_bitmap(path, name, granularity, enabled)


def qemu_io(path, *commands, format="qcow2"):
    """qemu-io, whose exit status is that of the last command only."""
    words = [word for command in commands for word in ("-c", command)]
    text = run("qemu-io", "-f", format, "-d", "unmap", *words, path)
    expect("failed" not in text and "rror" not in text, f"qemu-io {commands}: {text}")
    return text


def told(*command):
    """What a program of QEMU says in JSON. (It may warn of something, too.)"""
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=PATIENCE)
    if done.returncode != 0:
        raise Wrong(f"exit status {done.returncode}: {' '.join(map(str, command))}\n"
                    f"{done.stderr.decode(errors='replace')}")
    return json.loads(done.stdout)


def info(path):
    return qemu().info(path)


def bitmap_infos(path):
    """name -> (granularity, set of flags), as QEMU sees them."""
    found = info(path)["format-specific"]["data"].get("bitmaps", [])
    return {b["name"]: (b["granularity"], frozenset(b["flags"])) for b in found}


def check(path, leaks=False):
    """No corruption, and no leaks unless `leaks`, in QEMU's eyes and in
    core/check's. Returns what QEMU said."""
    done = subprocess.run(["qemu-img", "check", "-f", "qcow2", "--output=json", path],
                          capture_output=True, timeout=PATIENCE)
    said = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
    expect(done.returncode in ((0, 3) if leaks else (0,)),
           f"qemu-img check {path}: exit status {done.returncode}\n{said}")
    result = json.loads(done.stdout)
    ours = os.path.join(os.environ.get("builddir", "."), "support/check_image")
    expect(os.access(ours, os.X_OK), f"{ours} is missing: run this by make check TESTS=...")
    done = subprocess.run([ours, path], capture_output=True, timeout=PATIENCE)
    expect(done.returncode in ((0, 3) if leaks else (0,)),
           f"check_image {path}: exit status {done.returncode}\n"
           f"{(done.stdout + done.stderr).decode(errors='replace')}")
    return result


def compare(path, raw):
    """QEMU reads the same from both, and they have the same length."""
    said = run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, raw)
    expect("size mismatch" not in said, f"{path}: {said}")
