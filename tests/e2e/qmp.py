# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A client of the control channel, for scripts: `from qmp import Qmp`, or
#
#     qmp.py SOCKET COMMAND [ARGUMENTS-AS-JSON]     prints the answer; fails if it is an error

import json
import socket
import sys

# For what hangs, in seconds: longer than anything takes on a busy machine.
PATIENCE = 300


class Refused(Exception):
    pass


class Qmp:
    def __init__(self, path, negotiate=True, timeout=PATIENCE):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)  # waits where many do
        self.socket.settimeout(timeout)
        self.received, self.events = b"", []
        self.greeting = self.read()
        if negotiate:
            self.do("qmp_capabilities")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def read(self):
        while b"\r\n" not in self.received:
            more = self.socket.recv(1 << 16)
            if not more:
                raise EOFError
            self.received += more
        line, self.received = self.received.split(b"\r\n", 1)
        return json.loads(line)

    def send(self, command, arguments=None):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments or {}}).encode())

    def answer(self):
        while True:
            said = self.read()
            if "event" in said:
                self.events.append(said)
            elif "error" in said:
                raise Refused(said["error"]["desc"])
            else:
                return said["return"]

    def do(self, command, arguments=None):
        self.send(command, arguments)
        return self.answer()

    def event(self, name):
        """The first of this name that comes, or has come."""
        while True:
            for event in self.events:
                if event["event"] == name:
                    self.events.remove(event)
                    return event["data"]
            self.events.append(self.read())


if __name__ == "__main__":
    print(json.dumps(Qmp(sys.argv[1]).do(sys.argv[2], json.loads(sys.argv[3]) if len(sys.argv) > 3 else None)))
