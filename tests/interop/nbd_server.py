# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A read-only NBD server in a thread, for tests that decide themselves what a client sees:
# also what no server does, such as an export that goes away while it is read. Of the
# protocol it has what clients of QEMU and libnbd need.

import errno
import os
import socket
import struct
import threading

OPTION_MAGIC, REPLY_MAGIC = 0x49484156454F5054, 0x3E889045565A9
OPT_ABORT, OPT_INFO, OPT_GO, OPT_STRUCTURED_REPLY, OPT_LIST_META, OPT_SET_META = 2, 6, 7, 8, 9, 10
REP_ACK, REP_INFO, REP_META_CONTEXT = 1, 3, 4
REP_ERR_UNSUP, REP_ERR_UNKNOWN = 1 << 31 | 1, 1 << 31 | 6
HAS_FLAGS, READ_ONLY, MULTI_CONN = 1, 2, 256
CMD_READ, CMD_DISC, CMD_FLUSH, CMD_BLOCK_STATUS = 0, 2, 3, 7
FLAG_REQ_ONE = 8
CHUNK_DONE, CHUNK_NONE, CHUNK_DATA, CHUNK_BLOCK_STATUS, CHUNK_ERROR = 1, 0, 1, 5, 1 << 15 | 1
CONTEXT = 1


class NbdServer:
    """find(name): the Export of that name, or None; it is asked again with each request."""

    def __init__(self, path, find):
        self.path, self.find = path, find
        self.before_read = lambda: None  # called before each read is answered
        self.vanished = 0  # clients that did not take leave
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        os.unlink(self.path)

    def _listen(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, connection.makefile("rb") as stream:
            try:
                name = _negotiate(connection, stream, self.find)
                while name is not None and _answer(connection, stream, self, name):
                    pass
            except (OSError, struct.error):
                self.vanished += 1


class Export:
    """`data`: the bytes; `extents`: [(length, flags)], or None: all of it is data."""

    def __init__(self, data, extents=None):
        self.data = data
        self.extents = extents or [(len(data), 0)]

    def status(self, offset, length, one):
        """(length, flags) from there on."""
        found, at = [], 0
        for size, flags in self.extents:
            begin, end = max(at, offset), min(at + size, offset + length)
            if begin < end:
                found.append((end - begin, flags))
            at += size
        return found[:1] if one else found


def _read(stream, form):
    return struct.unpack(form, stream.read(struct.calcsize(form)))


def _negotiate(connection, stream, find):
    """The name of the export that the client goes to; None if it leaves."""
    connection.sendall(b"NBDMAGIC" + struct.pack(">QH", OPTION_MAGIC, 3))
    _read(stream, ">I")
    while True:
        _magic, option, length = _read(stream, ">QII")
        data = stream.read(length)

        def reply(kind, content=b"", option=option):
            connection.sendall(struct.pack(">QIII", REPLY_MAGIC, option, kind, len(content)) +
                               content)

        if option == OPT_ABORT:
            reply(REP_ACK)
            return None
        if option == OPT_STRUCTURED_REPLY:
            reply(REP_ACK)
        elif option in (OPT_LIST_META, OPT_SET_META):
            reply(REP_META_CONTEXT, struct.pack(">I", CONTEXT) + b"base:allocation")
            reply(REP_ACK)
        elif option in (OPT_INFO, OPT_GO):
            name = data[4:4 + struct.unpack(">I", data[:4])[0]].decode()
            export = find(name)
            if export is None:
                reply(REP_ERR_UNKNOWN, b"there is no such export")
                continue
            reply(REP_INFO, struct.pack(">HQH", 0, len(export.data),
                                        HAS_FLAGS | READ_ONLY | MULTI_CONN))
            reply(REP_ACK)
            if option == OPT_GO:
                return name
        else:
            reply(REP_ERR_UNSUP)


def _answer(connection, stream, server, name):
    """One request. Whether there may be more."""
    _magic, flags, command, cookie, offset, length = _read(stream, ">IHHQQI")

    def chunk(kind, content=b""):
        connection.sendall(struct.pack(">IHHQI", 0x668E33EF, CHUNK_DONE, kind, cookie,
                                       len(content)) + content)

    if command == CMD_READ:
        server.before_read()
    export = server.find(name)
    if command == CMD_DISC:
        return False
    if command == CMD_FLUSH:
        chunk(CHUNK_NONE)
    elif export is None:
        chunk(CHUNK_ERROR, struct.pack(">IH", errno.EIO, 0))
    elif command == CMD_READ:
        chunk(CHUNK_DATA, struct.pack(">Q", offset) + export.data[offset:offset + length])
    elif command == CMD_BLOCK_STATUS:
        found = export.status(offset, length, flags & FLAG_REQ_ONE)
        chunk(CHUNK_BLOCK_STATUS, struct.pack(">I", CONTEXT) +
              b"".join(struct.pack(">II", *each) for each in found))
    else:
        chunk(CHUNK_ERROR, struct.pack(">IH", errno.EINVAL, 0))
    return True
