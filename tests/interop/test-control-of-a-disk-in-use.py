#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Each command of the control channel while a disk is in use (disk_in_use.py), and while the
# server is killed at some moment after it was sent. A command has then happened, or not, and
# of a transaction all or nothing: names, states, snapshots and size in the file are those
# of before it, or those of after it. Snapshots show one moment, that of the command; each
# bitmap covers what was changed since it was made or cleared: in one transaction with a
# snapshot, since the very moment that this shows.
#
#   IN_USE_SECONDS=N: how long (default: short). `make soak-backups`: long, with new seeds.

import collections
import sys
import time

sys.dont_write_bytecode = True
from disk_in_use import KINDS, SECONDS, Deck, DiskInUse, rounds  # noqa: E402
from interop import *  # noqa: E402, F403
from moments import History  # noqa: E402
from orders import Bits, Order, Orders, State  # noqa: E402
from qmp import Refused  # noqa: E402


class Controlled:
    """A disk in use, and the State that it has."""

    def __init__(self, t, disk):
        self.rng, self.t, self.disk = t.rng, t, disk
        self.state = State(disk.SIZE)
        self.orders = Orders(t.rng, disk.log)
        self.deck = Deck(t.rng, ["kill"] * 3 + ["do"] * 7)
        self.usual = {}  # command -> seconds
        self.done, self.killed = collections.Counter(), collections.Counter()
        self.happened = 0  # of those that were killed in the middle

    def once(self):
        self.disk.go_on(self.rng.choice((0, 20, 200)))
        what = self.rng.random()
        if what < 0.1 and self.state.snapshots:
            self.revert()
        elif what < 0.25 and self.state.bitmaps:
            self.back_up()
        elif what < 0.3:
            self.quit()
        else:
            self.order(self.orders.next(self.state))
        if self.disk.server.process.poll() is None:
            self.disk.check_clients()

    def order(self, order):
        if self.deck.draw() == "kill":
            self.order_and_kill(order)
            return
        is_over = self.disk.instant()
        with self.disk.qmp() as qmp:
            self.do(qmp, order.command, order.arguments)
            self.settle(order, is_over())
            self.see(qmp)
        if order.snapshot and order.snapshot in self.state.snapshots and self.rng.random() < 0.5:
            self.see_snapshot(order)

    def do(self, qmp, command, arguments):
        begun = time.monotonic()
        try:
            answer = qmp.do(command, arguments)
        except Refused as refused:
            is_aborted = any(a["type"] == "abort" for a in arguments.get("actions", ()))
            expect(is_aborted, f"{command} {arguments}: refused: {refused}")
            answer = None
        self.usual[command] = (self.usual.get(command, 0.01) + time.monotonic() - begun) / 2
        self.done[command] += 1
        return answer

    def settle(self, order, instant):
        """It has happened."""
        self.state = order.after
        for name in order.begins:
            self.state.bitmaps[name].since = len(self.disk.log.entries)
        if order.snapshot and order.snapshot in self.state.snapshots:
            self.state.snapshots[order.snapshot].moment = instant

    def see(self, qmp):
        """The server says so, too."""
        (node,) = qmp.do("query-named-block-nodes")[:1]
        same(({b["name"]: b["recording"] for b in node.get("dirty-bitmaps", [])},
              sorted(s["name"] for s in node["image"].get("snapshots", [])),
              node["image"]["virtual-size"]), self.state.seen(), "what the server says")

    def see_snapshot(self, order):
        h = nbd.NBD()
        h.set_export_name(f"snapshot/{order.snapshot}")
        h.connect_unix(self.disk.server.socket)
        self.keep_snapshot(order, h.pread(DiskInUse.PART, 0))
        h.shutdown()

    def keep_snapshot(self, order, content):
        """What it shows, and bitmaps that began with it cover all since."""
        snapshot = self.state.snapshots[order.snapshot]
        instant = snapshot.moment
        snapshot.content = content
        moment = instant.history.moment(content, instant.low, instant.high,
                                        f"snapshot {order.snapshot}")
        for name in order.begins if order.command == "transaction" else ():
            bits = self.state.bitmaps[name]
            if bits.enabled:
                bits.ranges += self.written(moment, instant.high)

    def written(self, moment, high):
        """By the writer, after that moment."""
        return [(begin, end) for begin, end, is_answered in self.disk.log_of_writer[moment:high]
                if is_answered]

    # --- Killed.

    def order_and_kill(self, order):
        is_over = self.disk.instant()
        self.send_and_kill(order.command, order.arguments)
        self.disk.after_kill()
        before, after = self.state, order.after
        found = self.found()
        if order.command != "transaction" or before.seen() == after.seen():
            pass
        elif found != before.seen() and found != after.seen():
            raise Wrong(f"neither all nor nothing of {order.arguments}: there is {found}, before "
                        f"{before.seen()}, after {after.seen()}")
        if found == after.seen() and (found != before.seen() or order.weaker == "after"):
            self.settle(order, is_over())
            self.happened += before is not after and found != before.seen()
        else:
            same(found, before.seen(), f"after a kill in {order.command}, or {after.seen()}")
        self.see_file(order)
        self.disk.start()

    def send_and_kill(self, command, arguments):
        with self.disk.qmp() as qmp:
            qmp.send(command, arguments)
            time.sleep(self.rng.uniform(0, 2 * self.usual.get(command, 0.02)))
            self.disk.server.process.kill()
        self.killed[command] += 1

    def found(self):
        image = info(self.disk.path)
        bitmaps = bitmap_infos(self.disk.path)
        return ({name: "auto" in flags for name, (_, flags) in bitmaps.items()},
                sorted(s["name"] for s in image.get("snapshots", [])), image["virtual-size"])

    def see_file(self, order=None):
        """Bitmaps and snapshots in the file, of which no server has anything in memory."""
        same(self.found(), self.state.seen(), "what is in the file")
        for name, snapshot in self.state.snapshots.items():
            raw = self.t.path("snapshot.raw")
            run("qemu-img", "convert", "-f", "qcow2", "-l", f"snapshot.name={name}", "-O", "raw",
                self.disk.path, raw)
            with open(raw, "rb") as file:
                content = file.read(DiskInUse.PART)
            if snapshot.content is None and order and order.snapshot == name:
                self.keep_snapshot(order, content)
            elif snapshot.content is None:
                moment = snapshot.moment
                moment.history.moment(content, moment.low, moment.high, f"snapshot {name}")
                snapshot.content = content
            expect(content == snapshot.content, f"snapshot {name} has changed")
        image = Qcow2File(self.disk.path)
        stored = image.bitmaps()
        for name, bits in self.state.bitmaps.items():
            dirty = image.dirty(stored[name])
            if self.rng.random() < 0.2:
                same(qemu_bitmaps(self.t, self.disk.path, name), [dirty], f"bitmap {name}, by QEMU")
            must = granules(join(bits.must(self.disk.log)), stored[name].granularity,
                            self.state.size)
            expect(covers(dirty, must), f"bitmap {name} lacks a change: {dirty}, {must}")

    # --- Those that are more than a command.

    def revert(self):
        """(fio is not there: it would not find what it has written.)"""
        name = self.rng.choice(sorted(self.state.snapshots))
        snapshot = self.state.snapshots[name]
        if snapshot.content is None:
            return
        disk = self.disk
        disk.stop_fio()
        disk.full.clear()
        after = self.state.copy()
        after.size = snapshot.size
        after.cut()
        low = disk.writer.answered
        if self.rng.random() < 0.4:
            self.send_and_kill("snapshot-revert", {"id-or-name": name})
            disk.after_kill(other_histories=lambda: (
                History(disk.sequence, moment, snapshot.content)
                for moment in range(low, disk.writer.sent + 1)))
            if self.found() == after.seen():
                self.state = after
            self.see_file()
            disk.start()
            return
        with disk.qmp() as qmp:
            self.do(qmp, "snapshot-revert", {"id-or-name": name})
            high = disk.writer.sent
            disk.writer.pause()
            self.state = after
            self.see(qmp)
            content = disk.idler.pread(disk.PART, 0)
            for moment in range(max(low, disk.history.first), high + 1):
                history = History(disk.sequence, moment, snapshot.content)
                if history.at(disk.writer.sent) == content:
                    break
            else:
                raise Wrong(f"a revert to {name} between {low} and {high} has left something else")
            disk.history = history
            for bits in self.state.bitmaps.values():
                if bits.enabled:
                    bits.ranges = [(0, self.state.size)]
            disk.writer.go_on()
        disk.start_fio()

    def back_up(self):
        """A backup of a bitmap, and what it shows."""
        enabled = [name for name, bits in self.state.bitmaps.items() if bits.enabled]
        if not enabled:
            return
        name, disk = self.rng.choice(enabled), self.disk
        words = {"id": "one", "bitmap": name, "mode": self.rng.choice(("full", "incremental")),
                 "whole": True}
        if words["mode"] == "full":
            del words["whole"]
        if self.rng.random() < 0.2:
            self.order_and_kill(Order("backup-begin", words, self.state))
            return
        with disk.qmp() as qmp:
            is_over = disk.instant()
            self.do(qmp, "backup-begin", words)
            instant, since = is_over(), len(disk.log.entries)
            h = nbd.NBD()
            h.set_export_name("backup/one")
            h.connect_unix(disk.server.socket)
            content = h.pread(disk.PART, 0)
            h.shutdown()
            moment = instant.history.moment(content, instant.low, instant.high, "backup/one")
            after, success = self.state.copy(), self.rng.random() < 0.7
            end = {"id": "one", "success": success}
            if success:
                after.bitmaps[name] = Bits(True, self.written(moment, instant.high))
                after.bitmaps[name].since = since
            if self.rng.random() < 0.5:
                self.do(qmp, "backup-end", end)
                self.state = after
            else:
                self.order_and_kill(Order("backup-end", end, after, weaker="after"))

    def quit(self):
        """Clients are connected. All is in the file when it has answered."""
        disk = self.disk
        if self.rng.random() < 0.4:
            self.order_and_kill(Order("quit", {}, self.state))
            return
        with disk.qmp() as qmp:
            qmp.do("quit")
        self.done["quit"] += 1
        check(disk.path, leaks=disk.kills > 0)
        disk.after_kill()
        self.see_file()
        disk.start()

    def tell(self):
        print(f"    {sum(self.done.values())} commands done, {sum(self.killed.values())} killed in "
              f"the middle, of which {self.happened} had happened; {self.disk.writer.sent} changes")
        for command in sorted(self.done | self.killed):
            print(f"      {command}: {self.done[command]}, killed {self.killed[command]}")


@cases(KINDS)
def each_command_happens_or_not(t, options):
    requires("fio")
    disk = DiskInUse(t, options=options)
    disk.start()
    controlled = Controlled(t, disk)
    try:
        for _ in rounds(20):
            controlled.once()
        disk.stop()
        controlled.see_file()
    finally:
        controlled.tell()
        disk.leave_nothing()


main(case_seconds=2 * SECONDS + 400)
