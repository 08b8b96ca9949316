# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The servers that are compared, and what is measured on them.

import contextlib
import ctypes
import json
import os
import re
import signal
import subprocess
import time

import nbd

KiB, MiB, GiB, TiB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

START_SECONDS = 60
RUN_SECONDS = 600

_prctl = ctypes.CDLL(None).prctl


def compiled(source, folder):
    """A file of this folder as a library for LD_PRELOAD, made once in the other."""
    library = os.path.join(folder, source.replace(".c", ".so"))
    if not os.path.exists(library):
        here = os.path.dirname(os.path.abspath(__file__))
        run("cc", "-D_GNU_SOURCE", "-O2", "-shared", "-fPIC", "-o", library, os.path.join(here, source))
    return library


def warm_memory(image, size):
    """Memory that a virtual machine uses for the first time comes from its host, at a tenth of
    the speed, and milliseconds at a time. That is no cost of a server: so what its image, or
    scratch, in memory will need is used before."""
    path = image + ".warm"
    with open(path, "wb") as file:
        for _ in range(size // MiB):
            file.write(bytes(MiB))
    os.unlink(path)


class Failed(Exception):
    """A program did not do what it should."""


def _die_with_parent():
    _prctl(1, signal.SIGKILL)


def sync_microseconds(folder):
    """What the device needs for 4 KiB of a file, alone: the median of some."""
    path = os.path.join(folder, "sync")
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(file, bytes(64 * KiB), 0)
        os.fsync(file)
        times = []
        for number in range(101):
            os.pwrite(file, bytes([number]) * 4 * KiB, number % 16 * 4 * KiB)
            begun = time.monotonic()
            os.fdatasync(file)
            times.append(time.monotonic() - begun)
        return sorted(times)[50] * 1e6
    finally:
        os.close(file)
        os.unlink(path)


def run(*command):
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=RUN_SECONDS)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}\n{done.stdout.decode(errors='replace')}")
    return done.stdout


class Server:
    """A server on the unix socket `path`; dies with us. The command names the
    socket."""

    def __init__(self, command, path):
        self.path = path
        self.log = path + ".log"
        self.at_end = None  # called with what the server has said, after a clean stop
        self.p99_us = None  # latency of the last fio() that has ended
        with open(self.log, "wb") as log:
            self.begun = time.monotonic()
            self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, preexec_fn=_die_with_parent)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.at_end and self.process.poll() is None:
            self.stop()
            with open(self.log, errors="replace") as log:
                self.at_end(log.read())
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for name in (self.path, self.log):
            if os.path.exists(name):
                os.unlink(name)

    def fail(self, what):
        with open(self.log, errors="replace") as log:
            raise Failed(f"{what}: {' '.join(map(str, self.process.args))}\n{log.read()}")

    @property
    def uri(self):
        return f"nbd+unix:///?socket={self.path}"

    def connect(self, *contexts):
        """A client, as soon as there is somebody to talk to."""
        while time.monotonic() < self.begun + START_SECONDS:
            if self.process.poll() is not None:
                break
            if os.path.exists(self.path):
                client = nbd.NBD()
                for context in contexts:
                    client.add_meta_context(context)
                try:
                    client.connect_unix(self.path)
                    return client
                except nbd.Error:
                    pass
            time.sleep(0.0002)
        self.fail("no answer")

    def first_byte(self, offset):
        """Seconds from the start of the program to an answer."""
        client = self.connect()
        client.pread(512, offset)
        took = time.monotonic() - self.begun
        client.shutdown()
        return took

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_memory(self):
        """Bytes."""
        return self.of_status("VmHWM:")

    def memory(self):
        """Bytes, without what belongs to files."""
        return self.of_status("RssAnon:")

    def of_status(self, name):
        with open(f"/proc/{self.process.pid}/status") as status:
            for line in status:
                if line.startswith(name):
                    return int(line.split()[1]) * KiB
        return 0

    def stop(self):
        """Seconds from SIGTERM to the end."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(RUN_SECONDS)
        except subprocess.TimeoutExpired:
            self.fail("does not end")
        if self.process.returncode not in (0, -signal.SIGTERM):
            self.fail(f"ended with {self.process.returncode}")
        return time.monotonic() - begun

    def fio_words(self, options):
        return ["fio", "--output-format=json", "--ioengine=nbd", "--thread", "--group_reporting=1",
                "--randrepeat=1", "--name=job", "--uri=" + self.uri,
                *(f"--{key}={value}" for key, value in options.items())]

    @contextlib.contextmanager
    def fio_beside(self, **options):
        """fio at work while the body runs."""
        beside = subprocess.Popen(self.fio_words(options), stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  preexec_fn=_die_with_parent)
        try:
            yield
        finally:
            # It completes what is under way: nbdkit 1.32 ends when a client vanishes.
            beside.send_signal(signal.SIGINT)
            try:
                beside.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                beside.kill()
                beside.wait()

    def fio(self, **options):
        """Runs fio's NBD engine; returns (operations, bytes, seconds, CPU
        seconds of the server)."""
        words = self.fio_words(options)
        self.connect().shutdown()
        before = self.cpu_seconds()
        done = subprocess.run(words, stdin=subprocess.DEVNULL,
                              capture_output=True, timeout=RUN_SECONDS)
        cpu = self.cpu_seconds() - before
        text = done.stdout.decode(errors="replace")
        if done.returncode != 0 or "{" not in text:
            self.fail(f"{' '.join(words)}\n{text}{done.stderr.decode(errors='replace')}")
        job = json.loads(text[text.index("{"):])["jobs"][0]
        if job["error"]:
            self.fail(f"{' '.join(words)}: error {job['error']}")
        sides = [job[side] for side in ("read", "write", "trim")]
        busiest = max(sides, key=lambda side: side["total_ios"])
        self.p99_us = busiest["clat_ns"].get("percentile", {}).get("99.000000", 0) / 1e3
        operations = sum(side["total_ios"] for side in sides)
        seconds = max(side["runtime"] for side in sides) / 1000
        if job.get("sync", {}).get("total_ios"):
            seconds = max(seconds, job["job_runtime"] / 1000)
        return operations, sum(side["io_bytes"] for side in sides), max(seconds, 0.001), cpu


# --- Who is compared.


class Variant:
    """One kind of server. `format`: what it serves; `family`: those who leave
    an image as they find it may use each other's."""
    format = "qcow2"
    family = "ours"
    bitmap = None

    def __init__(self, name, title):
        self.name, self.title = name, title

    def serve(self, image, sockets):
        path = os.path.join(sockets, f"{self.name}.sock")
        if os.path.exists(path):
            os.unlink(path)
        return Server(self.command(image, path), path)

    def as_it_is(self):
        """The same, and no bitmap is made."""
        return self


class Raw(Variant):
    """The limit: what nbdkit costs without us."""
    format = family = "raw"

    def command(self, image, path):
        return ["nbdkit", "-f", "-U", path, "file", image]


class Qemu(Variant):
    family = "qemu"

    def __init__(self, name, title, aio):
        super().__init__(name, title)
        self.aio = aio

    def command(self, image, path):
        return ["qemu-nbd", "-t", "-f", "qcow2", f"--aio={self.aio}", "--cache=writeback",
                "--discard=unmap", "--shared=64", "-k", path, image]


class Us(Variant):
    """`sync`: of bitmap-sync=, or None for the filter's default. `bitmap`: made
    if it is not there, or None."""

    def __init__(self, name, title, filter, sync=None, bitmap="bench"):
        super().__init__(name, title)
        self.filter, self.sync, self.bitmap = filter, sync, bitmap
        self.counts = False
        self.barriers = None  # for bits, while the last server was there

    def counting(self):
        """The same, slower: it counts the barriers."""
        other = Us(self.name, self.title, self.filter, self.sync, self.bitmap)
        other.counts = True
        return other

    def serve(self, image, sockets):
        server = super().serve(image, sockets)
        if self.counts:
            server.at_end = self.count
        return server

    def count(self, said):
        self.barriers = sum(int(number) for number in
                            re.findall(r"changes waited for (\d+) barriers", said))

    def command(self, image, path):
        words = ["nbdkit", "-f", *["-v"] * self.counts, "-U", path, "--filter=" + self.filter, "file", image,
                 "qcow2-files=" + os.path.dirname(image)]
        if self.bitmap:
            words.append("bitmap=" + self.bitmap)
        if self.sync:
            words.append("bitmap-sync=" + self.sync)
        return words

    def as_it_is(self):
        return Us(self.name, self.title, self.filter, self.sync, None)
