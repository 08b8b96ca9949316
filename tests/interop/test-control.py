#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The same session with the same bytes, over a unix socket, with qemu-storage-daemon
# and with the control channel: the same answers, in the same order, to the letter.
# Set apart are the lists of commands and the version, what QEMU says of a text that
# is no JSON behind "JSON parse error", and the times of snapshots. In the end both
# files have the same bitmaps, snapshots and size.

import socket
import subprocess
import sys

sys.dont_write_bytecode = True
from interop import *  # noqa: E402, F403

# Both refuse it; when its answer comes all before it has been answered.
SYNC = b'\n{"execute": "no-such-command", "id": "sync"}'


class Session:
    """A connection to a monitor. It keeps what it has heard, message by message."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.settimeout(PATIENCE)
        self.received = b""
        self.greeting = self.message()
        self.events = []

    def message(self):
        while b"\n" not in self.received:
            more = self.socket.recv(1 << 16)
            expect(more, "the connection was ended")
            self.received += more
        line, self.received = self.received.split(b"\n", 1)
        expect(line.endswith(b"\r"), "a line without CR LF:", line)
        expect(line.isascii(), "not ASCII:", line)
        return json.loads(line)

    def say(self, data, pieces=1):
        """What is answered, in order. `pieces`: sent byte by byte, if it is 0."""
        for part in ([data] if pieces else [data[i:i + 1] for i in range(len(data))]):
            self.socket.sendall(part)
        self.socket.sendall(SYNC)
        answers = []
        while True:
            said = self.message()
            if "event" in said:
                self.events.append(said)
            elif said.get("id") == "sync":
                return answers
            else:
                answers.append(said)

    def do(self, command, arguments=None):
        (answer,) = self.say(words(command, arguments))
        return answer


def words(command, arguments=None, **more):
    return json.dumps({"execute": command, **({} if arguments is None else {"arguments": arguments}), **more}).encode()


class Daemon:
    """qemu-storage-daemon with a monitor on a socket, and the image as node `disk`."""

    def __init__(self, t, path):
        self.monitor = t.path("qemu.qmp")
        self.process = subprocess.Popen(
            ["qemu-storage-daemon", "--chardev", f"socket,id=m,path={self.monitor},server=on,wait=off",
             "--monitor", "chardev=m", "--pidfile", t.path("qemu.pid"),
             "--blockdev", f"driver=qcow2,node-name=disk,discard=unmap,file.driver=file,file.filename={path}"])
        while not os.path.exists(t.path("qemu.pid")):
            expect(self.process.poll() is None, "qemu-storage-daemon did not start")
            time.sleep(0.01)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def both(t, test, negotiate=True):
    paths = t.path("qemu.qcow2"), t.path("ours.qcow2")
    for path in paths:
        create(path, 64 * MiB)
    control = t.path("ours.qmp")
    with Daemon(t, paths[0]) as daemon, Nbdkit(t, paths[1], f"qcow2-control={control}") as server:
        sessions = Session(daemon.monitor), Session(control)
        if negotiate:
            for session in sessions:
                same(session.say(b'{"execute":"qmp_capabilities"}'), [{"return": {}}], "negotiation")
        test(*sessions)
        for session in sessions:
            session.socket.sendall(words("quit"))
            same(session.message(), {"return": {}}, "quit")
            same(session.socket.recv(1), b"", "the end of the connection")
        daemon.process.wait(timeout=PATIENCE)
        server.wait()
    for path in paths:
        check(path)
    same(bitmap_infos(paths[1]), bitmap_infos(paths[0]), "bitmaps in the files")
    same(info(paths[1])["virtual-size"], info(paths[0])["virtual-size"], "sizes")
    same(names_of_snapshots(info(paths[1])), names_of_snapshots(info(paths[0])), "snapshots")


def names_of_snapshots(image):
    return [(s["id"], s["name"]) for s in image.get("snapshots", [])]


def normal(answer):
    """Without what may differ."""
    # (QEMU 11 says line and column first.)
    desc = re.sub(r"^[0-9]+:[0-9]+: ", "", answer.get("error", {}).get("desc", ""))
    if desc.startswith("JSON parse error"):
        answer["error"]["desc"] = "JSON parse error"
    # So since QEMU 10, or one before.
    if "Transaction property" in desc:
        answer["error"]["desc"] = desc.replace("Transaction property", "transaction property")
    if isinstance(answer.get("return"), dict):
        for name in [n for n in answer["return"] if n.startswith(("date-", "vm-clock-"))]:
            answer["return"][name] = "some time"
        if "package" in answer["return"]:
            answer["return"] = sorted(answer["return"])
    return answer


def compare_sessions(requests):
    def test(qemu, ours):
        for request in requests:
            for pieces in (1, 0) if b"add" not in request and len(request) < 200 else (1,):
                theirs = [normal(answer) for answer in qemu.say(request, pieces)]
                same([normal(answer) for answer in ours.say(request, pieces)], theirs, f"{request}")
    return test


NEGOTIATION = [
    b'{"execute":"query-version"}', b'{"execute":"nope","id":1}', b'{"foo":1}', b"[]",
    b'{"execute":"qmp_capabilities","arguments":{"enable":["x"]}}',
    b'{"execute":"qmp_capabilities","arguments":{"enable":"x"}}',
    b'{"execute":"qmp_capabilities","arguments":{"enable":[1]}}',
    b'{"execute":"qmp_capabilities","arguments":{"x":1}}',
    b'{"execute":"qmp_capabilities","arguments":{"enable":[]},"id":[1,{"a":null}]}',
    b'{"execute":"qmp_capabilities"}', b'{"execute":"qmp_capabilities","id":"again"}',
]

REQUESTS = [
    # Ids: any value, or none.
    *(b'{"execute":"query-version","id":' + id_ + b"}" for id_ in (
        b"null", b"true", b"1", b"-1", b"1.50", b"1.1", b"18446744073709551615", b"123456789012345678901234567890",
        b"1e3", b'""', b'"a"', b"[]", b"{}", b'{"execute":"quit"}', b'"\\u00e9\\u0001\\/\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80\\"\\\\\\b\x7f"',
        b'"\\u0000"', b'"\\ud83d\\ude00"', b"[[[[[[[[[[[[1]]]]]]]]]]]]")),
    # Members.
    b'{"execute":"nope","id":null}', b'{"execute":"query-version","arguments":{}}',
    b'{"execute":"query-version","arguments":{"x":1}}', b'{"execute":"query-version","arguments":[]}',
    b'{"execute":"query-version","arguments":null}', b'{"execute":1}', b'{"execute":null,"id":5}', b'{"exec":"a"}',
    b'{"execute":"query-version","foo":1,"id":4}', b"{}", b'{"id":3}', b"[]", b"[1,2]", b'"abc"', b"1 ", b"true ",
    b'{"exec-oob":"query-version"}', b'{"execute":"query-version","exec-oob":"x"}', b'{"execute":""}',
    b'{"execute":"n\xc3\xa9\\u0001\'"}',
    # Framing.
    b'{"execute":"query-version"}{"execute":"nope","id":7}', b'\n\n {"execute"\n:\t"nope"\r}\n',
    b"{'execute':'nope','id':'a\"b\\'c'}", b'{"execute":"a"} 1 {"execute":"b"}', b'"x" "y"', b"1 2 3 ", b"1,2 ", b"1[]",
    # No JSON.
    b"}", b"]", b'{"execute":"query-version"]', b'{"a" 1}', b'{"a":1,"a":2,"id":3}',
    b'{"execute":"query-version","execute":"nope"}', b'{"execute":"query-version","id":"\\ud800"}',
    b'{"execute":"query-version","id":"\\x"}', b'{"execute":"query-version","id":"a\nb"}',
    b'{"execute":"query-version","id":"\xff"}', b"\xff", b'{"execute":\xff"query-version"}', b"\0",
    b'{"execute":"quer\x01y-version"}\n', b'{"execute":"query-version",}', b'{"execute":"query-version" "id":1}',
    b'{"execute":tru}', b"hello ", b'tru{"execute":"e"}', b'x\n{"execute":"e"}', b'{]{"execute":"f"}', b'[}{"execute":"f"}',
    b"[[]}", b'/* c */{"execute":"nope"}', b'{1:2}', b"{a:1}", b":", b",", b'{"a":[}]',
    # Arguments.
    *(words("block-dirty-bitmap-" + name, arguments) for name in ("add", "remove", "clear", "enable", "disable")
      for arguments in (None, {}, {"node": "disk"}, {"name": "a"}, {"node": 1, "name": "a"}, {"node": "disk", "name": 1},
                        {"node": "disk", "name": "a", "x": 1}, {"node": "zz", "name": "a"}, {"x": 1, "node": "disk"})),
    *(words("block-dirty-bitmap-add", {"node": "disk", **arguments}) for arguments in (
        {"name": ""}, {"name": "a" * 1024}, {"name": "b", "granularity": 1000}, {"name": "b", "granularity": 256},
        {"name": "b", "granularity": -1}, {"name": "b", "granularity": 0}, {"name": "b", "granularity": 1 << 32},
        {"name": "b", "granularity": 1.5}, {"name": "b", "granularity": "64k"}, {"name": "b", "granularity": None},
        {"name": "b", "granularity": 65536.0}, {"name": "c", "persistent": 1}, {"name": "", "granularity": 3},
        {"name": "a" * 1024, "granularity": 3})),
]

ADD = {"node": "disk", "persistent": True}
BITMAPS = [
    words("block-dirty-bitmap-add", {**ADD, "name": "a"}), words("block-dirty-bitmap-add", {**ADD, "name": "a"}),
    words("block-dirty-bitmap-add", {**ADD, "name": "d", "disabled": True, "granularity": 4096}),
    words("block-dirty-bitmap-add", {**ADD, "name": "e", "granularity": 1 << 31}),
    words("block-dirty-bitmap-add", {**ADD, "name": "Größe"}, id=1),
    words("block-dirty-bitmap-add", {**ADD, "name": "a" * 1023}),
    *(words("block-dirty-bitmap-" + verb, {"node": "disk", "name": name})
      for verb in ("disable", "disable", "clear", "enable", "enable", "remove") for name in ("a", "nope")),
    words("block-dirty-bitmap-add", {**ADD, "name": "a"}),
    *(words("block-dirty-bitmap-merge", {"node": "disk", **arguments}) for arguments in (
        {"target": "a"}, {"target": "a", "bitmaps": "d"}, {"target": "a", "bitmaps": [1]},
        {"target": "a", "bitmaps": [{"node": "disk"}]}, {"target": "a", "bitmaps": ["zz"]},
        {"target": "zz", "bitmaps": ["a"]}, {"target": "a", "bitmaps": [{"node": "qq", "name": "d"}]},
        {"target": "a", "bitmaps": [{"node": "disk", "name": "d", "x": 1}]}, {"target": "a", "bitmaps": ["d", None]},
        {"target": "a", "bitmaps": ["d", {"node": 1, "name": 1}]}, {"target": "a", "bitmaps": ["d"]},
        {"target": "a", "bitmaps": [{"node": "disk", "name": "d"}, "a"]})),
    words("block-dirty-bitmap-merge", {"node": "zz", "target": "a", "bitmaps": ["a"]}),
]


def action(kind, **data):
    return {"type": kind, "data": data}


def bitmap_action(verb, name, **data):
    return action("block-dirty-bitmap-" + verb, node="disk", name=name, **data)


def transaction(*actions, **more):
    return words("transaction", {"actions": list(actions), **more})


def add_action(name):
    return bitmap_action("add", name, persistent=True)


TRANSACTIONS = [
    words("transaction"), words("transaction", {}), words("transaction", {"actions": 1}), transaction(),
    transaction(1), transaction({}), transaction({"type": "nope"}), transaction({"type": 1}),
    transaction({"type": "nope", "data": {}}), transaction({"type": "abort"}), transaction({"type": "abort", "data": 1}),
    transaction(action("abort")), transaction(action("abort", x=1)), transaction({"type": "abort", "data": {}, "y": 1}),
    transaction({"data": {}}), transaction(action("block-dirty-bitmap-add", node="disk")),
    transaction(bitmap_action("add", 1)), transaction(bitmap_action("add", "a", granularity=-1)),
    transaction(bitmap_action("add", "a", granularity="x")), transaction(bitmap_action("add", "a", persistent=2)),
    transaction(action("block-dirty-bitmap-merge", node="disk", target="a", bitmaps=["e", {"node": 1, "name": 1}])),
    transaction(add_action("a"), bitmap_action("add", "b", zz=True)),
    # The last one fails: nothing is done.
    transaction(add_action("a"), add_action("a")), transaction(add_action("a"), action("abort")),
    transaction(add_action("a"), bitmap_action("remove", "zz")),
    transaction(action("blockdev-snapshot-internal-sync", device="disk", name="no"), add_action("b"), action("abort")),
    transaction(action("blockdev-snapshot-internal-sync", device="disk", name="no"),
                action("blockdev-snapshot-internal-sync", device="disk", name="no")),
    transaction(add_action("a"), action("block-dirty-bitmap-clear", node="zz", name="a")),
    # All is done.
    transaction(add_action("a"), bitmap_action("disable", "a")), transaction(add_action("a"), add_action("b")),
    transaction(bitmap_action("clear", "a"), add_action("b"),
                action("block-dirty-bitmap-merge", node="disk", target="b", bitmaps=["a"])),
    transaction(action("blockdev-snapshot-internal-sync", device="disk", name="s0"), bitmap_action("clear", "a")),
    transaction(bitmap_action("remove", "a"), add_action("a")),
    transaction(bitmap_action("remove", "a"), bitmap_action("clear", "a")),
    transaction(add_action("c"), properties={}), transaction(add_action("d"), properties={"completion-mode": "grouped"}),
    transaction(properties={"completion-mode": "grouped"}), transaction(properties={"completion-mode": "groupe"}),
    transaction(properties={"completion-mod": "groupe"}), transaction(properties=1), transaction(props=1),
    transaction(bitmap_action("remove", "a"), bitmap_action("enable", "b")),
]

STRUCTURE = [
    *(words("block_resize", arguments) for arguments in (
        None, {"size": 1}, {"device": "disk"}, {"node-name": "zz", "size": 1}, {"device": "zz", "size": 1},
        {"node-name": "disk", "size": -1}, {"node-name": "disk", "size": "1G"}, {"node-name": "disk", "size": 1 << 63},
        {"node-name": "disk", "size": 1.0}, {"node-name": "disk", "size": 128 << 20},
        {"node-name": "disk", "size": (128 << 20) + 100}, {"node-name": "disk", "size": 96 << 20})),
    *(words("blockdev-snapshot-internal-sync", arguments) for arguments in (
        None, {"device": "disk"}, {"name": "x"}, {"device": "zz", "name": "x"}, {"device": "disk", "name": ""},
        {"device": "disk", "name": "s1"}, {"device": "disk", "name": "s1"}, {"device": "disk", "name": "s2"},
        {"device": "disk", "name": 1})),
    *(words("blockdev-snapshot-delete-internal-sync", arguments) for arguments in (
        None, {"device": "disk"}, {"device": "disk", "name": "zz"}, {"device": "disk", "id": "9"},
        {"device": "disk", "id": "1", "name": "zz"}, {"device": "zz", "id": "1"},
        {"device": "disk", "id": "", "name": ""}, {"device": "disk", "id": "1"}, {"device": "disk", "name": "s1"})),
    words("query-jobs"), words("query-jobs", {"x": 1}), words("query-block", {"x": 1}),
    words("query-named-block-nodes", {"flat": 1}), words("quit", {"x": 1}),
]


@case
def negotiation(t):
    both(t, compare_sessions(NEGOTIATION), negotiate=False)


@case
def requests(t):
    both(t, compare_sessions(REQUESTS))


@case
def bitmaps(t):
    both(t, compare_sessions(BITMAPS))


@case
def transactions(t):
    both(t, compare_sessions(TRANSACTIONS))


@case
def structure(t):
    both(t, compare_sessions(STRUCTURE))


@case
def queries(t):
    """What both tell of the same disk."""
    def test(qemu, ours):
        for session in (qemu, ours):
            session.do("block-dirty-bitmap-add", {**ADD, "name": "a"})
            session.do("block-dirty-bitmap-add", {**ADD, "name": "b", "granularity": 4096, "disabled": True})
            session.do("blockdev-snapshot-internal-sync", {"device": "disk", "name": "s"})
        nodes = [next(node for node in session.do("query-named-block-nodes")["return"] if node.get("node-name") == "disk")
                 for session in (qemu, ours)]
        nodes[0].setdefault("active", True)  # since QEMU 10
        # Since then, too. (Ours has no nodes but the disk.)
        nodes[0].pop("children", None)
        same(nodes[1].pop("children"), [], "children")
        for node in nodes:
            node["dirty-bitmaps"].sort(key=lambda bitmap: bitmap["name"])
            # Of QEMU's own: not ours to tell.
            for name in ("actual-size", "format-specific", "dirty-flag", "limits"):
                node["image"].pop(name, None)
            node["image"]["snapshots"] = names_of_snapshots(node["image"])
            same(node.pop("file"), node["image"].pop("filename"), "the name of the file")
        same(nodes[1], nodes[0], "query-named-block-nodes")
        schema = [{entry["name"]: entry for entry in session.do("query-qmp-schema")["return"]} for session in (qemu, ours)]
        for entry in schema[1].values():
            if entry["meta-type"] == "command" and entry["name"] in schema[0]:
                compare_arguments(entry["name"], *schema)
        theirs = {command["name"] for command in qemu.do("query-commands")["return"]}
        same(sorted(e["name"] for e in schema[0].values() if e["meta-type"] == "command"), sorted(theirs), "QEMU's schema")
        same(sorted(e["name"] for e in schema[1].values() if e["meta-type"] == "command"),
             sorted(command["name"] for command in ours.do("query-commands")["return"]), "our schema")
    both(t, test)


def compare_arguments(command, theirs, ours):
    """A command of ours that QEMU has takes the same arguments."""
    members = [{member["name"]: ("default" in member, kind(schema, member["type"]))
                for member in schema[schema[command]["arg-type"]]["members"]} for schema in (theirs, ours)]
    if command == "query-block":
        members[0].pop("flat", None)  # since QEMU 11, and not asked for by who knows older ones
    same(members[1], members[0], f"arguments of {command}")


def kind(schema, name):
    entry = schema[name]
    if entry["meta-type"] == "array":
        return ["array", kind(schema, entry["element-type"])]
    return entry.get("json-type", entry["meta-type"])


if __name__ == "__main__":
    main()
