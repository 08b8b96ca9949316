#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The images of tests/corrupt, of which each has one of the findings of
# format/findings.h, before the server: it refuses them or serves them as is said
# there, and prints the finding and its place. qcow2-check= says of each what
# qemu-img check says.

import os
import subprocess
import sys

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403

SOUND, FAILED, CORRUPT, LEAKS = 0, 1, 2, 3

# Where QEMU does not say what we say: what it says, what we say, and why.
DIFFERENT = {
    "backing_file": (FAILED, SOUND, "needs the file, which is not there; we look at this one alone"),
    "bitmap_directory_padding": (SOUND, CORRUPT, "does not look at the padding"),
    "bitmap_name_size_wrong": (SOUND, CORRUPT, "takes an empty name"),
    "bitmaps_extension_missing": (SOUND, CORRUPT, "believes the missing extension"),
    "data_file_offset_wrong": (SOUND, CORRUPT, "sees it when it reads there"),
    "data_file_name_missing": (FAILED, CORRUPT, "needs the file"),
    "encrypted": (FAILED, SOUND, "needs the key; the tables are not encrypted"),
    "extension_duplicate": (SOUND, CORRUPT, "takes the last one"),
    "external_data_file": (FAILED, CORRUPT, "needs the file"),
    "l2_entry_zero_flag_in_v2": (SOUND, CORRUPT, "does not look at the bit"),
}

# What the server says in other words: it knows the key that helps.
OTHER_WORDS = {
    "backing_file": ("the image names this file", "qcow2-files="),
    "external_data_file": ("the image names this file", "qcow2-files="),
}


def images(t):
    program = os.path.join(os.environ.get("builddir", "."), "corrupt/corrupt_tests")
    done = subprocess.run([program, "--run_test=corrupt_test/files_for_the_server"],
                          env={**os.environ, "CASES": t.folder}, capture_output=True, timeout=PATIENCE)
    expect(done.returncode == 0, done.stdout.decode() + done.stderr.decode())
    with open(t.path("cases")) as f:
        found = [json.loads(line) for line in f]
    expect(len(found) > 60, "too few images")
    with open(t.path("data"), "wb") as f:
        f.truncate(4 << 20)
    return [(t.path(c["name"] + ".qcow2"), c) for c in found]


def nbdkit(path, *arguments):
    """Exit status, and what it printed and said. It must end by itself."""
    done = subprocess.run(["nbdkit", "-f", "-U", "-", f"--filter={os.environ['FILTER']}", "file", path,
                           *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=PATIENCE, env=environment_of("nbdkit"))
    return done.returncode, done.stdout.decode(errors="replace")


def nbdkit_serves(t, path, c):
    """A server for it, which may open the data file."""
    return Nbdkit(t, path, *([f"qcow2-files={t.folder}"] if c["data_file"] else []))


def tells(text, c, what):
    for part in OTHER_WORDS.get(c["name"], (c["sentence"], c["place"])):
        expect(part in text, f"{what}: '{part}' is not in:\n{text}")


@case
def the_server_tells(t):
    for path, c in images(t):
        what, fate = f"{c['name']} ({c['fate']})", c["fate"]
        before = open(path, "rb").read()
        if fate == "refused":
            status, said = nbdkit(path)
            same(status, FAILED, what)
            tells(said, c, what)
            continue
        if fate == "served":
            tells(nbdkit(path, "qcow2-check=report")[1], c, what)
        with nbdkit_serves(t, path, c) as server:
            h = server.connect()
            repaired = c["name"] == "dirty_bit_set"
            same(h.is_read_only(), fate.startswith("read_only") and not repaired, what)
            if fate in ("bad_here", "read_only_here"):
                with contextlib.suppress(nbd.Error):
                    h.pread(c["cluster_size"], c["bad_offset"])
                    raise Wrong(f"{what}: no error")
            if fate == "not_written":
                # One of these meets the metadata.
                for at in (c["bad_offset"], 20 * c["cluster_size"]):
                    with contextlib.suppress(nbd.Error):
                        h.pwrite(b"x" * c["cluster_size"], at)
                        h.flush()
            said = server.stop()
        if fate != "served" and not repaired:
            tells(said, c, what)
        if fate.startswith("read_only") and not repaired:
            expect(open(path, "rb").read() == before, f"{what}: has changed")


@case
def check_agrees_with_qemu(t):
    wrong = []
    for path, c in images(t):
        done = subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], timeout=PATIENCE,
                              capture_output=True, cwd=t.folder)  # where QEMU looks for data files
        status, said = nbdkit(path, "qcow2-check=report")
        found, expected = (done.returncode, status), DIFFERENT.get(c["name"])
        # What QEMU does not open we may see more of.
        agree = status == done.returncode or done.returncode == FAILED and status == CORRUPT
        if (found != expected[:2]) if expected else not agree:
            wrong.append(f"{c['name']}: QEMU {found[0]}, we {found[1]}\n{done.stderr.decode()}{said}")
    expect(not wrong, "\n".join(wrong))


@case
def repair_agrees_with_check(t):
    # After qcow2-check=all the exit code is that of a check, QEMU's too.
    for path, c in images(t):
        for kind in ("leaks", "all"):
            status, said = nbdkit(path, f"qcow2-check={kind}")
            again, text = nbdkit(path, "qcow2-check=report")
            same(again, status, f"{c['name']}: report after {kind}\n{said}{text}")
            if status in (SOUND, LEAKS) and c["name"] not in DIFFERENT:
                done = subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], timeout=PATIENCE,
                                      capture_output=True)
                same(done.returncode, status, f"{c['name']}: QEMU after {kind}\n{said}{text}")


main()
