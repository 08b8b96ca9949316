#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# qcow2bitmap as a client of the control socket: what it asks for is done, by QEMU, too; and
# it says what is wrong, where, and what helps, whoever is at the other end.

import contextlib
import json
import os
import socket
import subprocess
import threading

from interop import KiB, MiB, case, cases, create, expect, main, run, same
from tool import FakeServer, refused, tool


@contextlib.contextmanager
def storage_daemon(t, disks=1):
    """The control socket of a QEMU that has disks open."""
    path, words = t.path("qemu.sock"), []
    for number in range(disks):
        disk = t.path(f"{number}.qcow2")
        create(disk, 64 * MiB)
        run("qemu-img", "snapshot", "-c", "before", disk)
        words += ["--blockdev", f"driver=qcow2,node-name=disk{number},file.driver=file,"
                  f"file.filename={disk}"]
    process = subprocess.Popen(
        ["qemu-storage-daemon", "--chardev", f"socket,id=us,path={path},server=on,wait=off",
         "--monitor", "chardev=us", "--pidfile", t.path("pid"), *words])
    try:
        while not os.path.exists(t.path("pid")):
            expect(process.poll() is None, "qemu-storage-daemon has ended")
        yield path
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def somebody(t, says, then=None):
    """A socket where somebody says this, reads a line, says `then`, and goes."""
    path = t.path("somebody.sock")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def talk():
        connection, _ = listener.accept()
        with connection:
            connection.sendall(says)
            if then is not None:
                connection.recv(1 << 16)
                connection.sendall(then)

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    yield path
    thread.join()
    listener.close()
    os.unlink(path)


@case
def manages_a_disk_of_qemu(t):
    with storage_daemon(t) as path:
        def do(*words, **more):
            out, err = tool("-s", path, *words, **more)
            expect("this is QEMU" in err, "it is not said who that is")
            return out

        def bitmaps():
            return {each["name"]: each for each in json.loads(do("bitmap", "list", "--json"))}

        def snapshots():
            return [each["name"] for each in json.loads(do("snapshot", "list", "--json"))]

        do("bitmap", "add", "one", "--granularity", "4K")
        do("bitmap", "add", "two", "--disabled")
        same({name: (each["granularity"], each["recording"], each["persistent"])
              for name, each in bitmaps().items()},
             {"one": (4 * KiB, True, True), "two": (64 * KiB, False, True)}, "bitmaps")
        do("bitmap", "add", "three", "--granularity", "4K")
        do("bitmap", "merge", "three", "one")
        do("bitmap", "remove", "three")
        do("bitmap", "disable", "one")
        do("bitmap", "enable", "two")
        do("bitmap", "clear", "two")
        same({name: each["recording"] for name, each in bitmaps().items()},
             {"one": False, "two": True}, "bitmaps")
        refused("Dirty bitmap 'none' not found", "-s", path, "bitmap", "clear", "none")

        do("snapshot", "create", "now")
        same(snapshots(), ["before", "now"], "snapshots")
        do("snapshot", "delete", "1")
        same(snapshots(), ["now"], "snapshots")
        refused("there is no snapshot '1', but: 2 'now'", "-s", path, "snapshot", "delete", "1")
        refused("cannot revert a disk that is in use", "-s", path, "snapshot", "revert", "now")

        do("resize", "96M")
        refused("needs --shrink", "-s", path, "resize", "1M")
        do("resize", "--shrink", "32M")
        shown = do("status")
        for words in ("0.qcow2", "32 MiB", "QEMU", "one", "disabled", "now"):
            expect(words in shown, shown)
        status = json.loads(do("status", "--json"))
        same((status["node"], status["disk"]["image"]["virtual-size"]), ("disk0", 32 * MiB),
             "status")

        backups = t.path("backups")
        os.mkdir(backups)
        refused("cannot freeze a disk", "-s", path, "backup", backups)
        do("stop")
        refused("no such socket", "-s", path, "status", status=3)


@case
def one_of_several_disks(t):
    with storage_daemon(t, 2) as path:
        refused("2 qcow2 disks; --node says which: disk0, disk1", "-s", path, "status")
        refused("no node 'disk2'", "-s", path, "status", "--node", "disk2")
        tool("-s", path, "--node", "disk1", "resize", "65M")
        same(json.loads(tool("-s", path, "status", "--node", "disk1", "--json")[0])["disk"]["image"]
             ["virtual-size"], 65 * MiB, "size")


@case
def records_of_backups_are_guarded(t):
    with storage_daemon(t) as path:
        name = "backup@20261127T210000Z-12345678"
        tool("-s", path, "bitmap", "add", name)
        for what in ("clear", "disable"):
            refused("would miss", "-s", path, "bitmap", what, name)
            tool("-s", path, "bitmap", what, name, "--force")
        tool("-s", path, "bitmap", "remove", name)


@case
def nobody_answers(t):
    path = t.path("x.sock")
    refused(f"qcow2-control={path}", "-s", path, "status", status=3)
    with open(path, "w"):
        refused("not a socket", "-s", path, "status", status=3)
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
    refused("nobody answers", "-s", path, "status", status=3)
    refused("no such socket", "-s", t.path("a/b"), "status", status=3)
    deep = t.path("/".join(["a" * 40] * 4))
    os.makedirs(deep)
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(deep)
        listener.bind("s")
        listener.listen()
    os.chdir("/")
    refused("nobody answers", "-s", deep + "/s", "status", status=3)


@case
def permission_is_denied(t):
    if os.getuid() != 0:
        return
    path = t.path("x.sock")
    os.chmod(os.path.dirname(t.folder), 0o755)
    os.chmod(t.folder, 0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        os.chmod(path, 0o600)
        refused("permission denied: it is for user root alone", "-s", path, "status", status=3,
                user=65534)


@cases({"nbd": (b"NBDMAGICIHAVEOPT\0\3", None, "the socket for NBD clients"),
        "http": (b"HTTP/1.1 400\r\n\r\n", None, "this is not QMP: b'HTTP/1.1 400"),
        "nothing": (b"", None, "the connection was closed"),
        "list": (b"[1]\r\n", None, "this is not QMP"),
        "no-version": (b'{"QMP": {}}\r\n', None, "does not greet as QMP does"),
        "goes": (b'{"QMP": {"version": {"qemu": {"major": 1, "minor": 2, "micro": 3}}}}\r\n', b"",
                 "the server has gone"),
        "half-a-line": (b'{"QMP": {"version": {"qemu": {"major": 1, "minor": 2, "micro": 3}}}}\r\n',
                        b'{"return', "the server has gone"),
        "refuses": (b'{"QMP": {"version": {"qemu": {"major": 1, "minor": 2, "micro": 3}}}}\r\n',
                    b'{"error": {"class": "GenericError", "desc": "not you"}}\r\n', "not you")})
def somebody_else_answers(t, says, then, message):
    with somebody(t, says, then) as path:
        refused(message, "-s", path, "status", status=1 if message == "not you" else 3)


@case
def shows_all_that_our_server_tells(t):
    with FakeServer(t) as server:
        server.bitmaps = {"nightly": {"enabled": True, "inconsistent": False, "dirty": {1, 2}},
                          "old": {"enabled": False, "inconsistent": True, "dirty": set()}}
        tool("-s", server.socket, "status")
        server.tells = {"read-only-because": "nobody asked", "warnings": ["one", "two"],
                        "disk": {"bytes-below": 5 << 30, "leaks": {"last-run": 3, "known": True}}}
        server._backup_begin("by-hand", "auto", 3, "nightly")
        server.break_backup("the scratch is full")
        out, err = tool("-s", server.socket, "status")
        same(err, "", "said of the server")
        lines = [" ".join(line.split()) for line in out.splitlines()]
        for line in ("size 4 MiB", "state running", "bytes below 5 GiB",
                     "leaks last run: 3, known: yes", "warnings one, two",
                     "nightly 128 KiB 64 KiB enabled, busy", "old 0 B 64 KiB inconsistent",
                     "by-hand incremental 1:01 64 KiB 192 KiB 2 broken: the scratch is full"):
            expect(line in lines, f"'{line}' is not in:\n{out}")


@cases({"nothing": ((), "COMMAND"), "no-socket": (("status",), "-s SOCKET is missing"),
        "unknown": (("frobnicate",), "frobnicate"),
        "size": (("-s", "x", "resize", "3x"), "'3x' is no size"),
        "keep": (("prune", "x", "--keep", "0"), "'0' is not 1 or more"),
        "name": (("-s", "x", "backup", "y", "--bitmap", "a@b"), "'a@b' cannot be"),
        "abbreviation": (("prune", "x", "--kee", "1"), "--keep")})
def usage_is_wrong(_, words, message):
    refused(message, *words, status=2)
    refused("qcow2bitmap --help", *words, status=2)


@case
def help_is_helpful(_):
    for words in ((), ("backup",), ("bitmap",), ("bitmap", "merge"), ("snapshot",), ("restore",)):
        expect("usage: qcow2bitmap" in tool(*words, "--help")[0], words)


main()
