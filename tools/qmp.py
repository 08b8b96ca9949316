# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A client of the control socket, which speaks QMP as QEMU does: the server greets,
# we negotiate, and from then on each command has one answer with the same id.
# Events come in between; we have no use for them, and drop them.

import errno
import json
import os
import pwd
import socket
import stat

from failure import NO_SERVER, Failure

GREETING_SECONDS = 10
MESSAGE_BYTES_MAX = 64 << 20
OURS = "qcow2bitmap"  # how the package in our server's greeting begins


class Refused(Failure):
    """The server does not do it; the message is the server's."""

    def __init__(self, command, error):
        self.reason = error.get("desc", "no reason given")
        self.is_unknown_command = error.get("class") == "CommandNotFound"
        super().__init__(f"the server refuses {command}: {self.reason}")


class Monitor:
    """with Monitor(path) as monitor: monitor.do("query-status")"""

    def __init__(self, path):
        self.path = path
        self._socket = _connected(path)
        self._lines = self._socket.makefile("rb")
        self._last_id = 0
        try:
            self._negotiate()
        except BaseException:
            self.close()
            raise

    def close(self):
        self._lines.close()
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _negotiate(self):
        try:
            if self._socket.recv(8, socket.MSG_PEEK) == b"NBDMAGIC":
                raise Failure(f"{self.path}: this is the socket for NBD clients; -s takes that of "
                              "qcow2-control=", NO_SERVER)
            greeting = self._message()
            version = greeting["QMP"]["version"]
            numbers = version["qemu"]
            self.package = str(version.get("package", ""))
            self.version = ".".join(str(numbers[key]) for key in ("major", "minor", "micro"))
        except socket.timeout:
            raise Failure(f"{self.path}: the server says nothing. QEMU has time for one client at "
                          "once: perhaps another one is connected", NO_SERVER) from None
        except (KeyError, TypeError):
            raise Failure(f"{self.path}: whoever answers there does not greet as QMP does",
                          NO_SERVER) from None
        self._socket.settimeout(None)  # some commands take as long as the disk is large
        self.do("qmp_capabilities")

    @property
    def is_ours(self):
        return self.package.startswith(OURS)

    @property
    def server(self):
        return self.package if self.is_ours else f"QEMU {self.version}"

    def do(self, command, arguments=None):
        """What the server returns."""
        self._last_id += 1
        words = {"execute": command, "id": self._last_id}
        if arguments:
            words["arguments"] = arguments
        try:
            self._socket.sendall(json.dumps(words).encode() + b"\n")
        except OSError as error:
            raise self._gone(error) from None
        while True:
            said = self._message()
            if "event" in said or said.get("id", self._last_id) != self._last_id:
                continue
            if "error" in said:
                raise Refused(command, said["error"])
            if "return" in said:
                return said["return"]

    def do_if_known(self, command, otherwise=None):
        """For queries that only some servers have."""
        try:
            return self.do(command)
        except Refused as refused:
            if refused.is_unknown_command:
                return otherwise
            raise

    def wait_for_end(self):
        """Until the server has closed the connection."""
        try:
            while self._lines.read(1 << 16):
                pass
        except OSError:
            pass

    def _message(self):
        try:
            line = self._lines.readline(MESSAGE_BYTES_MAX)
        except socket.timeout:
            raise
        except OSError as error:
            raise self._gone(error) from None
        if not line.endswith(b"\n"):
            raise self._gone("the connection was closed")
        try:
            said = json.loads(line)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise Failure(f"{self.path}: this is not QMP: {line[:60]!r}", NO_SERVER)
        return said

    def _gone(self, why):
        return Failure(f"{self.path}: the server has gone in the middle of it: {why}", NO_SERVER)


def _connected(path):
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(GREETING_SECONDS)
    try:
        _connect(connection, path)
    except OSError as error:
        connection.close()
        raise Failure(f"{path}: {_why_not(path, error)}", NO_SERVER) from None
    return connection


def _connect(connection, path):
    """Also where the path is longer than the 107 bytes of an address."""
    folder = os.open(os.path.dirname(path) or ".", os.O_PATH)
    try:
        connection.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    finally:
        os.close(folder)


def _why_not(path, error):
    if error.errno == errno.ENOENT:
        return f"no such socket. A server makes it if it is started with qcow2-control={path}"
    if error.errno == errno.EACCES:
        return f"permission denied{_owner_of(path)}"
    if error.errno == errno.ECONNREFUSED:
        if _is_socket(path):
            return "nobody answers: the server that made this socket has ended"
        return "this is not a socket"
    return error.strerror or str(error)


def _is_socket(path):
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return True


def _owner_of(path):
    try:
        return f": it is for user {pwd.getpwuid(os.stat(path).st_uid).pw_name} alone"
    except (KeyError, OSError):
        return ": it is for the user alone who runs the server"
