# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# qemu-img at work, with a progress bar.
#
# It is never killed while it can end by itself: nbdkit before 1.34 dies, with the disk that
# it serves, when a client vanishes in the middle of a request. So it has a session of its
# own, in which a Ctrl-C does not reach it; and who asks us to end waits until the source,
# which `end_source` has closed, answers it with errors.

import contextlib
import fcntl
import json
import os
import re
import struct
import subprocess
import urllib.parse

from failure import Failure, undisturbed
from show import Progress

SECONDS_TO_END = 20
_PERCENT = re.compile(rb"\(([0-9.]+)/100%\)")


def convert(source, target, what, options=(), folder=None, **more):
    """Copies a disk. A source and a target are (format, name). `options`: more of qemu-img's."""
    try:
        _run(["convert", "-p", "-f", source[0], "-O", target[0], *options, source[1], target[1]],
             what, folder, **more)
    except Failure as failure:
        if type(failure) is not Failure or "://" in target[1]:
            raise
        raise Failure(f"{os.path.join(folder or '', target[1])}: {failure}") from None


def are_same(one, other, what, **more):
    """Whether two disks read the same, from end to end. Each is (format, name)."""
    words = ["compare", "-p", "-f", one[0], "-F", other[0], one[1], other[1]]
    return _run(words, what, statuses=(0, 1), **more) == 0


def what_is_wrong(path):
    """What qemu-img check finds in the metadata of a qcow2 file; None if all is well."""
    done = _qemu_img(["check", "-q", "-f", "qcow2", path])
    if done.returncode == 0:
        return None
    said = (done.stdout + done.stderr).decode(errors="replace").split("\n")
    return f"qemu-img check: {next((line for line in said if line.strip()), 'it is damaged')}"


def size_of(place, format_="raw"):
    """Of the disk in a file, or at an NBD server."""
    return _told(["info", "--output=json", "-f", format_, place])["virtual-size"]


def is_open(path):
    """Whether a program has the image open that locks what it opens: QEMU, or the filter."""
    # Any lock on a byte that QEMU's way of locking uses is in the way of this one.
    everything = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        with open(path, "rb") as file:
            found = fcntl.fcntl(file, fcntl.F_OFD_GETLK, everything)
    except OSError:  # there is none, or there are no locks
        return False
    return struct.unpack_from("h", found)[0] != fcntl.F_UNLCK


def reads_as_zeros(place):
    """As far as that can be told without reading it."""
    return all(extent["zero"] for extent in _told(["map", "--output=json", "-f", "raw", place]))


def _told(words):
    """What qemu-img says in JSON."""
    done = _qemu_img(words)
    if done.returncode != 0:
        raise Failure(done.stderr.decode(errors="replace").strip().removeprefix("qemu-img: "))
    return json.loads(done.stdout)


def _qemu_img(words):
    try:
        return subprocess.run(["qemu-img", *words], check=False, stdin=subprocess.DEVNULL,
                              capture_output=True)
    except FileNotFoundError:
        raise _missing() from None


def _missing():
    return Failure("qemu-img is missing (Debian: apt-get install qemu-utils)")


def nbd_uri(server, export):
    """`server`: a URI of an NBD server, or the path of its socket."""
    if "://" not in server:
        server = "nbd+unix:///?socket=" + urllib.parse.quote(server)
    scheme, place, _path, query, _ = urllib.parse.urlsplit(server)
    return f"{scheme}://{place}/{urllib.parse.quote(export)}{'?' + query if query else ''}"


def _run(words, what, folder=None, end_source=None, statuses=(0,)):
    """Its exit status, one of `statuses`. `folder`: from which names are seen."""
    try:
        process = subprocess.Popen(["qemu-img", *words], cwd=folder, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   start_new_session=True)
    except FileNotFoundError:
        raise _missing() from None
    try:
        with Progress(what) as bar:
            said = _watch(process, bar)
        status = process.wait()
    except BaseException:
        with undisturbed():
            _stop(process, end_source)
        raise
    if status not in statuses:
        raise Failure(f"{what}: {said or f'qemu-img ended with {status}'}")
    return status


def _stop(process, end_source):
    if end_source:
        end_source()
        # It has to be heard: what it says must not fill the pipe.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=SECONDS_TO_END)
    process.kill()
    process.communicate()


def _watch(process, bar):
    """Until it ends. What it says beside its progress, in one line."""
    rest = b""
    while piece := process.stdout.read1(1 << 16):
        rest += piece
        percents = _PERCENT.findall(rest)
        if percents:
            bar.to(float(percents[-1]))
            # What stands behind the last of them may go on.
            rest = _PERCENT.sub(b"", rest)
    lines = [line.strip() for line in re.split(r"[\r\n]+", rest.decode(errors="replace"))]
    return "; ".join(line.removeprefix("qemu-img: ") for line in lines if line)
