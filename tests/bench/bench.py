#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# make bench: what a request costs here, in nbdkit on a raw file, and in qemu-nbd.
#
# Each row is measured in turns, the servers one after another, and that some
# times over; the figures are medians, the ratios medians of the ratios within
# one turn. Clients are fio's NBD engine and libnbd, on unix sockets. Of each
# server the CPU time per request is noted too: it moves less on a busy machine.

import argparse
import collections
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile

try:
    import nbd  # noqa: F401
except ImportError:
    print("this Python has no module nbd (Debian: python3-libnbd)")
    sys.exit(77)

import backup_rows
import control_rows
import floor_rows
import growth
import report
import rows
from images import Images
from servers import Failed, run, sync_microseconds

MEMORY_FOLDER = "/dev/shm"


class Bench:
    """What a row needs to measure."""

    def __init__(self, images, sockets, seconds):
        self.images, self.sockets, self.seconds = images, sockets, seconds
        self.round = 0
        self.known = {}


def missing(groups):
    programs = ["nbdkit", "qemu-nbd", "qemu-img", "fio"]
    if any(group.name in ("backup", "control") for group, _ in groups):
        programs += ["qemu-storage-daemon", "nbdcopy"]
    for program in programs:
        if shutil.which(program) is None:
            return f"{program} is missing"
    engines = subprocess.run(["fio", "--enghelp"], capture_output=True).stdout.split()
    return None if b"nbd" in engines else "fio has no nbd engine"


def chosen(groups, names):
    """(group, rows) for the names: of rows, parts of them up to a "-", groups,
    or "quick"."""
    wanted = [name for name in names.split(",") if name]
    if "quick" in wanted:
        wanted = [name for name in wanted if name != "quick"] + list(rows.QUICK)

    def is_wanted(group, row):
        return any(name in (group.name, "all") or row.name == name or row.name.startswith(name + "-")
                   for name in wanted)

    found = [(group, [row for row in group.rows if is_wanted(group, row)]) for group in groups]
    return [(group, some) for group, some in found if some]


def machine():
    model = "unknown"
    with open("/proc/cpuinfo") as cpuinfo:
        for line in cpuinfo:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break

    def version(*command):
        return run(*command).decode().splitlines()[0].strip()

    return (f"{os.cpu_count()} x {model}, Linux {platform.release()}; {version('nbdkit', '--version')}, "
            f"{version('qemu-nbd', '--version')}, {version('fio', '--version')}")


def barriers(group, row, bench):
    """How many the row takes, counted in a turn that is not timed; or None."""
    if not group.counted or not row.counted:
        return None
    variant = next(each for each in group.variants if each.name == group.counted).counting()
    try:
        row.measure(bench, variant)
    except Failed as error:
        print(f"{row.name}, barriers: {error}", file=sys.stderr)
    return variant.barriers


def measure(group, some, place, bench, rounds, note):
    """A report.Table, filled row by row."""
    table = report.Table(group, place)
    for row in some:
        samples = collections.defaultdict(list)
        for bench.round in range(rounds):
            # Nobody is always the first.
            turn = group.variants[bench.round % len(group.variants):]
            for variant in turn + group.variants[:bench.round % len(group.variants)]:
                if variant.name in row.skip:
                    continue
                try:
                    samples[variant.name].append(row.measure(bench, variant))
                except Failed as error:
                    print(f"{row.name}, {variant.name}: {error}", file=sys.stderr)
                    note(row)
        table.add(row, samples, barriers(group, row, bench))
        print(table.lines[-1], flush=True)
    return table


def main():
    parser = argparse.ArgumentParser(description="Measures the filter against nbdkit on a raw file and qemu-nbd.")
    parser.add_argument("--filter", default=os.environ.get("FILTER"), help="nbdkit-qcow2bitmap-filter.so")
    parser.add_argument("--earlier", metavar="FILTER",
                        help="another one, of an earlier state: measured in the same turns by the rows of main and price")
    parser.add_argument("--rows", default="quick",
                        help="names of rows or of their beginnings, of groups, quick, all; with commas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1, help="of each measurement, about")
    parser.add_argument("--places", default="memory", help="memory, disk, or both with a comma")
    parser.add_argument("--disk-folder", default=".", help="where images on disk go")
    parser.add_argument("--sync", default=None, help="bitmap-sync= of ours; without it, the filter's default")
    parser.add_argument("--price-syncs", default="on-close,durable", help="what price compares, with commas")
    parser.add_argument("--out", default="bench", help="folder for results.json, bench.md and bench.svg")
    parser.add_argument("--list", action="store_true", help="say the names of the rows")
    parser.add_argument("--draw", metavar="RESULTS", help="make tables and pictures of results.json again")
    options = parser.parse_args()

    drawn = None
    if options.draw:
        with open(options.draw) as file:
            drawn = json.load(file)
        options.earlier = options.draw if report.has_earlier(drawn) else None  # nothing is run
    groups = [rows.main_group(options.filter, options.sync, options.earlier),
              rows.price_group(options.filter, options.price_syncs.split(","), options.earlier),
              growth.growth_group(options.filter, options.sync),
              backup_rows.backup_group(options.filter, options.sync),
              backup_rows.scratch_group(options.filter, options.sync),
              floor_rows.floor_group(),
              floor_rows.extents_group(options.filter, options.sync),
              control_rows.control_group(options.filter, options.sync)]
    if options.list:
        for group in groups:
            for row in group.rows:
                print(f"{group.name:8} {row.name:24} {row.title}")
        return 0
    if drawn:
        report.write(options.out, *report.load(drawn, groups))
        return 0

    if not options.filter or not os.path.exists(options.filter):
        parser.error("--filter or FILTER must name nbdkit-qcow2bitmap-filter.so")
    if options.earlier and not os.path.exists(options.earlier):
        parser.error(f"--earlier: there is no {options.earlier}")
    picked = chosen(groups, options.rows)
    if not picked:
        parser.error(f"no row is named {options.rows}; --list says the names")
    if missing(picked):
        print(missing(picked))
        return 77

    failed = []
    tables = []
    syncs = []
    said = machine()
    print(said)
    for place in options.places.split(","):
        parent = MEMORY_FOLDER if place == "memory" else os.path.abspath(options.disk_folder)
        with tempfile.TemporaryDirectory(prefix="qcow2bitmap-bench.", dir=parent) as folder, \
                tempfile.TemporaryDirectory(prefix="qcow2bitmap-bench.") as sockets:
            syncs.append((place, sync_microseconds(folder)))
            for group, some in picked:
                print(f"\n{group.title}; images in {folder}, where a sync of 4 KiB takes {syncs[-1][1]:.0f} us")
                print(report.heading(group), flush=True)
                bench = Bench(Images(folder, options.filter), sockets, options.seconds)
                tables.append(measure(group, some, place, bench, options.rounds, failed.append))
    note = f"{options.rounds} rounds of about {options.seconds:g} s"
    note += "".join(f"; a sync of 4 KiB takes {took:.0f} us {'in memory' if place == 'memory' else 'on disk'}"
                    for place, took in syncs)
    report.write(options.out, tables, f"{said}; {note}")
    print(f"\nwritten: {options.out}/results.json, bench.md, bench.svg")
    return 1 if failed else 0


sys.exit(main())
