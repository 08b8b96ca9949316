# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# For a disk in use (disk_in_use.py): commands of the control channel, drawn from what is
# possible, and what is in the file after each.

import collections
import copy

from disk_in_use import DiskInUse
from interop import KiB, MiB

QUERIES = ("query-status", "query-block", "query-named-block-nodes", "query-backups",
           "query-block-exports", "query-qmp-schema", "query-jobs", "query-version", "query-name",
           "query-commands")


class Bits:
    """Of a bitmap: it must cover `ranges`, and, if it is enabled, what was answered of the log
    from `since` on. (None: from when the command is known to have happened.)"""

    def __init__(self, enabled=True, ranges=()):
        self.enabled, self.ranges, self.since = enabled, list(ranges), None

    def must(self, log):
        return self.ranges + (log.answered(self.since) if self.enabled and
                              self.since is not None else [])


class Snapshot:
    def __init__(self, size):
        self.size, self.content, self.moment = size, None, None


class State:
    """What is in the file."""

    def __init__(self, size):
        self.bitmaps, self.snapshots, self.size = {}, {}, size

    def copy(self):
        other = State(self.size)
        other.bitmaps = {name: copy.copy(bits) for name, bits in self.bitmaps.items()}
        for bits in other.bitmaps.values():
            bits.ranges = list(bits.ranges)
        other.snapshots = dict(self.snapshots)
        return other

    def cut(self):
        """What lies behind the end is gone, and is clean if the disk grows again."""
        for bits in self.bitmaps.values():
            bits.ranges = [(begin, min(end, self.size)) for begin, end in bits.ranges]

    def seen(self):
        return ({name: bits.enabled for name, bits in self.bitmaps.items()},
                sorted(self.snapshots), self.size)


# A command, the state after it, names of bitmaps that begin to record by it, the snapshot that
# it makes; `weaker`: which state asks for less, where both look the same.
Order = collections.namedtuple("Order", "command arguments after begins snapshot weaker",
                               defaults=((), None, "before"))


class Orders:
    """Draws commands that are possible in a state."""

    def __init__(self, rng, log):
        self.rng, self.log = rng, log

    def next(self, state):
        kinds = [self.query, self.bitmap, self.bitmap, self.bitmap, self.merge, self.snapshot,
                 self.snapshot, self.resize, self.transaction, self.transaction, self.transaction]
        while True:
            order = self.rng.choice(kinds)(state)
            if order:
                return order

    def query(self, state):
        return Order(self.rng.choice(QUERIES), {}, state)

    def bitmap(self, state):
        after = state.copy()
        verb = self.rng.choice(("add", "add", "remove", "clear", "enable", "disable"))
        data = self.change_bitmap(after, verb)
        if data is None:
            return None
        begins = [data["name"]] if verb in ("add", "clear", "enable") else []
        return Order(f"block-dirty-bitmap-{verb}", data, after, begins,
                     weaker="after" if verb == "clear" else "before")

    def change_bitmap(self, after, verb, not_these=()):
        """Its arguments. None if there is no such bitmap."""
        names = [name for name, bits in after.bitmaps.items() if name not in not_these and (
            verb in ("remove", "clear") or bits.enabled == (verb == "disable"))]
        if verb == "add":
            names = [f"b{number}" for number in range(5) if f"b{number}" not in after.bitmaps and
                     f"b{number}" not in not_these]
        if not names:
            return None
        name = self.rng.choice(names)
        if verb == "add":
            after.bitmaps[name] = Bits()
            return {"node": "disk", "name": name, "persistent": True,
                    "granularity": self.rng.choice((512, 4 * KiB, 64 * KiB, MiB))}
        bits = after.bitmaps[name]
        if verb == "remove":
            del after.bitmaps[name]
        elif verb == "clear":
            after.bitmaps[name] = Bits(bits.enabled)
        else:  # it keeps what it had
            after.bitmaps[name] = Bits(verb == "enable", bits.must(self.log))
        return {"node": "disk", "name": name}

    def merge(self, state):
        if len(state.bitmaps) < 2:
            return None
        target, *sources = self.rng.sample(sorted(state.bitmaps), self.rng.choice((2, 2, 3))
                                           if len(state.bitmaps) > 2 else 2)
        after = state.copy()
        after.bitmaps[target].ranges = [*after.bitmaps[target].ranges, *(
            range_ for name in sources for range_ in state.bitmaps[name].must(self.log))]
        return Order("block-dirty-bitmap-merge",
                     {"node": "disk", "target": target, "bitmaps": sources}, after)

    def snapshot(self, state):
        after = state.copy()
        if len(state.snapshots) > 1:
            name = self.rng.choice(sorted(state.snapshots))
            del after.snapshots[name]
            return Order("blockdev-snapshot-delete-internal-sync", {"device": "disk", "name": name},
                         after)
        data = self.make_snapshot(after)
        return Order("blockdev-snapshot-internal-sync", data, after, (), data["name"])

    def make_snapshot(self, after):
        name = self.rng.choice([n for n in ("s0", "s1", "s2") if n not in after.snapshots])
        after.snapshots[name] = Snapshot(after.size)
        return {"device": "disk", "name": name}

    def resize(self, state):
        after = state.copy()
        after.size = DiskInUse.SIZE - self.rng.randrange(12) * 512 * KiB
        after.cut()
        return Order("block_resize", {"node-name": "disk", "size": after.size}, after)

    def transaction(self, state):
        after, actions, begins, snapshot, used = state.copy(), [], [], None, set()
        for verb in self.rng.sample(("add", "add", "remove", "clear", "disable", "enable"), 4):
            data = self.change_bitmap(after, verb, used)
            if data:
                used.add(data["name"])
                actions.append({"type": f"block-dirty-bitmap-{verb}", "data": data})
                begins += [data["name"]] if verb in ("add", "clear", "enable") else []
        if len(after.snapshots) < 3 and self.rng.random() < 0.8:
            data = self.make_snapshot(after)
            snapshot = data["name"]
            actions.append({"type": "blockdev-snapshot-internal-sync", "data": data})
        self.rng.shuffle(actions)
        if self.rng.random() < 0.15:
            actions.append({"type": "abort", "data": {}})
            return Order("transaction", {"actions": actions}, state)
        return Order("transaction", {"actions": actions}, after, begins, snapshot, "after")
