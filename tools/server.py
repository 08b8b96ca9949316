# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What one asks of a server about its disk. Servers of QEMU are asked the same
# questions: they know no backups, and no reverting, and that is said.

import json
import re
import time

import failure
import show
from failure import Failure, say, warn
from qmp import Monitor, Refused

# A bitmap that `qcow2bitmap backup` has made: it records since the backup of this id.
RECORD = re.compile(r"(.+)@(\d{8}T\d{6}Z-([0-9a-f]{8}))")


class Disk:
    """The disk behind a Monitor, as it was when we asked."""

    def __init__(self, monitor, node=None):
        self.monitor = monitor
        if node is None and monitor.is_ours:
            node = "disk"
        # (QEMU itself gives names that begin with # to what lies below a disk.)
        nodes = [found for found in monitor.do("query-named-block-nodes")
                 if found.get("node-name") == node or (
                     node is None and found["drv"] == "qcow2" and found["node-name"][:1] != "#")]
        if len(nodes) != 1:
            raise Failure(_which_node(monitor, node, nodes))
        self.facts = nodes[0]
        self.node = self.facts["node-name"]
        self.bytes = self.facts["image"]["virtual-size"]
        self.bitmaps = {bitmap["name"]: bitmap for bitmap in self.facts.get("dirty-bitmaps", [])
                        if "name" in bitmap}
        self.snapshots = self.facts["image"].get("snapshots", [])

    def do_bitmap(self, what, name, **more):
        self.monitor.do(f"block-dirty-bitmap-{what}", {"node": self.node, "name": name, **more})


def _which_node(monitor, node, nodes):
    names = sorted(found["node-name"] for found in nodes)
    if node is not None:
        return f"{monitor.path}: the server has no node '{node}'"
    if not nodes:
        return f"{monitor.path}: the server has no qcow2 disk open"
    return f"{monitor.path}: the server has {len(nodes)} qcow2 disks; --node says which: " + \
        ", ".join(names)


def ask(arguments):
    """The monitor at -s, and what is behind it."""
    monitor = Monitor(arguments.socket)
    if not monitor.is_ours and not failure.is_quiet:
        warn(f"{arguments.socket}: this is {monitor.server}, not nbdkit with our filter")
    return monitor


# --- status


def status(arguments):
    with ask(arguments) as monitor:
        disk = Disk(monitor, arguments.node)
        state = monitor.do_if_known("query-status", {"status": "served"})
        backups = monitor.do_if_known("query-backups", [])
        if arguments.json:
            print(json.dumps({"server": monitor.server, "node": disk.node, "status": state,
                              "disk": disk.facts, "backups": backups}, indent=1))
            return
        _show_disk(monitor, disk, state)
        for facts, show_them in ((disk.bitmaps, show_bitmaps), (disk.snapshots, show_snapshots),
                                 (backups, _show_backups)):
            if facts:
                print()
                show_them(facts)


SHOWN_OTHERWISE = ("bitmaps", "disk", "file", "nbd-uri", "running", "singlestep", "size",
                   "snapshots", "status")


def _show_disk(monitor, disk, state):
    image = disk.facts["image"]
    used = f", {show.size(image['actual-size'])} in the file" if "actual-size" in image else ""
    lines = {"disk": image["filename"],
             "size": show.size(disk.bytes) + used,
             "served by": monitor.server,
             "state": ", ".join([state["status"]] + ["read-only"] * disk.facts.get("ro", False))}
    # What only our server tells, except for what is shown otherwise.
    for key, value in [*state.items(), *state.get("disk", {}).items()]:
        if key not in SHOWN_OTHERWISE:
            lines[key.replace("-", " ")] = _in_words(key, value)
    width = max(map(len, lines))
    for key, value in lines.items():
        print(f"{key.ljust(width)}  {value}")


def _in_words(key, value):
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and any(word in key for word in ("bytes", "size")):
        return show.size(value)
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('-', ' ')}: {_in_words(name, of)}"
                         for name, of in value.items())
    if isinstance(value, list):
        return ", ".join(_in_words(key, each) for each in value) or "none"
    return str(value)


def show_bitmaps(bitmaps):
    show.table(("BITMAP", "DIRTY", "GRANULARITY", "STATE"),
               [(name, show.size(bitmap["count"]), show.size(bitmap["granularity"]),
                 bitmap_state(bitmap)) for name, bitmap in bitmaps.items()])


def bitmap_state(bitmap):
    words = ["inconsistent" if bitmap.get("inconsistent")
             else "enabled" if bitmap["recording"] else "disabled"]
    if bitmap["busy"]:
        words.append("busy")
    if not bitmap["persistent"]:
        words.append("not stored")
    return ", ".join(words)


def show_snapshots(snapshots):
    show.table(("SNAPSHOT", "NAME", "TIME"),
               [(snapshot["id"], snapshot["name"],
                 time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(snapshot["date-sec"])))
                for snapshot in snapshots])


def _show_backups(backups):
    show.table(("BACKUP", "MODE", "AGE", "SCRATCH", "READ", "CLIENTS", "STATE"),
               [(backup["id"], backup["mode"], show.duration(backup["age"]),
                 show.size(backup["scratch-bytes"]), show.size(backup["bytes-read"]),
                 backup["clients"], _backup_state(backup)) for backup in backups])


def _backup_state(backup):
    reason = backup.get("reason")
    return f"{backup['state']}: {reason}" if reason else backup["state"]


# --- bitmap


def bitmap_list(arguments):
    with ask(arguments) as monitor:
        disk = Disk(monitor, arguments.node)
        if arguments.json:
            print(json.dumps(list(disk.bitmaps.values()), indent=1))
        else:
            show_bitmaps(disk.bitmaps)


def bitmap_add(arguments):
    more = {"granularity": arguments.granularity} if arguments.granularity else {}
    if arguments.disabled:
        more["disabled"] = True
    with ask(arguments) as monitor:
        Disk(monitor, arguments.node).do_bitmap("add", arguments.name, persistent=True, **more)
    say(f"bitmap '{arguments.name}' is made and "
        f"{'disabled' if arguments.disabled else 'records from now on'}")


CHANGED = {"remove": "is removed", "clear": "has no dirty bits any more",
           "enable": "records from now on", "disable": "does not record, and keeps its bits"}


def bitmap_change(arguments):
    record = RECORD.fullmatch(arguments.name)
    if record and arguments.what in ("clear", "disable") and not arguments.force:
        raise Failure(
            f"bitmap '{arguments.name}' says what has changed since backup {record[2]}: the next "
            "one would miss some of it. (`bitmap remove` is safe: the next backup is a full one. "
            "--force does it nevertheless.)")
    with ask(arguments) as monitor:
        Disk(monitor, arguments.node).do_bitmap(arguments.what, arguments.name)
    say(f"bitmap '{arguments.name}' {CHANGED[arguments.what]}")


def bitmap_merge(arguments):
    with ask(arguments) as monitor:
        disk = Disk(monitor, arguments.node)
        monitor.do("block-dirty-bitmap-merge", {"node": disk.node, "target": arguments.target,
                                                "bitmaps": arguments.sources})
    say(f"what {' and '.join(map(repr, arguments.sources))} have is in '{arguments.target}', too")


# --- snapshot


def snapshot_list(arguments):
    with ask(arguments) as monitor:
        disk = Disk(monitor, arguments.node)
        if arguments.json:
            print(json.dumps(disk.snapshots, indent=1))
        else:
            show_snapshots(disk.snapshots)


def snapshot_create(arguments):
    with ask(arguments) as monitor:
        disk = Disk(monitor, arguments.node)
        monitor.do("blockdev-snapshot-internal-sync", {"device": disk.node, "name": arguments.name})
    say(f"snapshot '{arguments.name}' is made")


def snapshot_delete(arguments):
    with ask(arguments) as monitor:
        disk = Disk(monitor, arguments.node)
        snapshot = _snapshot(disk, arguments.name)
        monitor.do("blockdev-snapshot-delete-internal-sync",
                   {"device": disk.node, "id": snapshot["id"], "name": snapshot["name"]})
    say(f"snapshot {snapshot['id']}, '{snapshot['name']}', is deleted")


def _snapshot(disk, text):
    """An id wins over a name."""
    for key in ("id", "name"):
        found = [snapshot for snapshot in disk.snapshots if snapshot[key] == text]
        if len(found) > 1:
            raise Failure(f"there are {len(found)} snapshots named '{text}'; say the id: " +
                          ", ".join(snapshot["id"] for snapshot in found))
        if found:
            return found[0]
    known = [f"{snapshot['id']} '{snapshot['name']}'" for snapshot in disk.snapshots]
    raise Failure(f"there is no snapshot '{text}', but: {', '.join(known) or 'none'}")


def snapshot_revert(arguments):
    with ask(arguments) as monitor:
        try:
            monitor.do("snapshot-revert", {"id-or-name": arguments.name})
        except Refused as refused:
            if not refused.is_unknown_command:
                raise
            raise Failure(f"{monitor.server} cannot revert a disk that is in use: stop it, then "
                          "qemu-img snapshot -a") from None
    say(f"the disk is as snapshot '{arguments.name}' has it; all bitmaps have all bits set")


# --- resize, stop


def resize(arguments):
    with ask(arguments) as monitor:
        disk = Disk(monitor, arguments.node)
        if arguments.size < disk.bytes and not arguments.shrink:
            raise Failure(f"the disk has {show.size(disk.bytes)}: to cut it to "
                          f"{show.size(arguments.size)} loses what is behind that, and needs "
                          "--shrink")
        monitor.do("block_resize", {"node-name": disk.node, "size": arguments.size})
    say(f"the disk had {show.size(disk.bytes)}, and has {show.size(arguments.size)}")


def stop(arguments):
    with ask(arguments) as monitor:
        monitor.do("quit")
        monitor.wait_for_end()
    say("the server has stopped")
