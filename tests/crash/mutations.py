#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Does the crash simulator find what it is for? Each mutation below is the
# engine with one rule broken. It is compiled, linked into the crash tests in
# the place of what is in the library, and these must fail: a mutation that
# survives is a failure of this test. The sources stay as they are.
#
#   make check-mutations                   all of them
#   make check-mutations MUTATION=W3       those with this in their names
#
# The environment (see Makefile.am): COMPILE, LINK, OBJECTS, LIBRARIES, and
# srcdir, the folder tests/ of the sources. Works in the folder it is started in.

import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

SOURCES = pathlib.Path(os.environ["srcdir"]).resolve().parent
SECONDS = 300  # of one case: a hang is found, too

# Of B3 one way to be wrong cannot be tried: a granule that two regions share, of
# which one is cooled while the other is relied on. Regions are counted in bits
# (DirtyBits), and a bit is all of its granule.
#
# Name (with the rule), {file: [(what is there once, what is in its place)]}, and
# the cases that find it soonest; the others follow.
MUTATIONS = [
    ("O1: no flush at open",
     {"core/image/guarded_store.cpp": [('    return opened_ ? Result<void>() : flush().in("flush before the first write");  // O1\n',
       "    return {};\n")],
      "core/disk.cpp": [("    if (made)\n        made = image_->settle();\n", "")]},
     ["any_image", "default_clusters"]),
    ("B2: the bits are set after the change",
     {"core/disk.cpp": [("    TRY(tracker_->before_change(range, place));\n", "    const Range marked = range;\n"),
      ("        range.begin = part.end;\n    }\n",
       "        range.begin = part.end;\n    }\n    TRY(tracker_->before_change(marked, place));\n")]},
     ["bits_that_come_and_go", "bits_under_threads"]),
    ("B2: arming without a barrier",
     {"core/bitmap/arming.cpp": [("            TRY(image_.store().write_durable(write.offset, write.bytes));",
       "            TRY(image_.store().write(write.offset, write.bytes));"),
      ("    ++barriers_;\n    return image_.store().flush();\n", "    return {};\n")]},
     ["bits_that_come_and_go", "bits_under_threads"]),
    ("B2: armed is believed before the barrier",
     {"core/bitmap/arming.cpp": [("    if (!TRY(write_durably(images, batch.may_give_up)))\n",
       "    for (Write &early : images)\n        early.bitmap->bits.durable(early.image);\n"
       "    if (!TRY(write_durably(images, batch.may_give_up)))\n")]},
     ["bits_under_threads", "bits_that_come_and_go"]),
    ("B2: a cluster of a bitmap has a name before it is durable",
     {"core/bitmap/arming.cpp": [("        TRY(image_.store().flush());\n        ++barriers_;\n        TRY(write_tables());",
       "        TRY(write_tables());")]},
     ["bits_that_come_and_go", "bits_under_threads"]),
    ("B2: the name of a bitmap's cluster is believed before it is durable",
     {"core/bitmap/arming.cpp": [('    TRY(send(writes).in("bitmap table"));\n',
       "    for (const SmallWrite &write : writes)\n"
       "        TRY(image_.store().write(write.offset, write.bytes));\n")]},
     ["bits_that_come_and_go", "bits_under_threads"]),
    ("B3: an arming forgets what is armed in the same sector",
     {"core/bitmap/dirty_bits.cpp": [("word.precise.load() | word.durable.load());", "word.precise.load());")]},
     ["bits_that_come_and_go", "bits_under_threads"]),
    ("B3: a region is cooled that a change has made precise",
     {"core/bitmap/dirty_bits.cpp": [("    const std::uint64_t extra = before & ~word.precise.load();\n"
       "    if (extra == 0)\n        return false;\n",
       "    const std::uint64_t extra = before & ~word.precise.load();\n"
       "    if (before == 0)\n        return false;\n    word.precise.fetch_and(~(before >> 1));\n")]},
     ["bits_that_come_and_go", "bits_under_threads"]),
    ("B3: a clearing write that comes late",
     {"core/bitmap/arming.cpp": [("        for (const SmallWrite &write : writes)\n"
       "            TRY(image_.store().write(write.offset, write.bytes).in(\"bitmap data\"));\n"
       "        bitmap.bits.written(*image);",
       "        static thread_local std::pair<Arming *, std::vector<SmallWrite>> late;\n"
       "        if (late.first == this)\n"
       "            for (const SmallWrite &write : late.second)\n"
       "                TRY(image_.store().write(write.offset, write.bytes));\n"
       "        late = {this, writes};\n"
       "        bitmap.bits.written(*image);")]},
     ["bits_that_come_and_go", "bits_under_threads"]),
    ("B8: on-close: the mark is gone before the bits are there",
     {"core/bitmap/tracker.cpp": [("    TRY(set_in_use(false));  // B8\n", ""),
      ("    TRY(arming_.store(may_be_in_use_));\n",
       "    if (may_be_in_use_)\n        TRY(set_in_use(false));\n    TRY(arming_.store(may_be_in_use_));\n")]},
     ["marks_that_come_and_go"]),
    ("B1: on-close: the mark is not durable",
     {"core/bitmap/tracker.cpp": [("            TRY(write_flags(*bitmap, in_use));\n    return image_.store().flush();",
       "            TRY(write_flags(*bitmap, in_use));\n    return {};")]},
     ["marks_that_come_and_go"]),
    ("B1: on-close: a settle that failed is not followed by marks",
     {"core/bitmap/tracker.cpp": [("    in_use_ = false;\n    TRY(set_in_use(false));  // B8\n",
       "    TRY(set_in_use(false));\n    in_use_ = false;\n")]},
     ["writes_that_fail"]),
    ("B7: all ones are believed before the table is durable",
     {"core/bitmap/stored_bitmap.cpp": [("        all_ones_unsure_.insert(entry);\n", "        all_ones_unsure_.clear();\n")]},
     ["writes_that_fail_without_room"]),
    ("B7: a bitmap is given up for data that were not placed",
     {"core/bitmap/tracker.cpp": [("    TRY(place());\n    TRY(arming_.arm(bytes, true));\n",
       "    TRY(arming_.arm(bytes, true));\n    TRY(place());\n")]},
     ["bits_that_have_no_room"]),
    ("W1: names before refcounts",
     {"core/image/allocator.cpp": [("    Result<void> result = refcounts_.write_back();\n    if (!result)\n        for",
       "    Result<void> result;\n    if (!result)\n        for")]},
     ["any_image", "small_clusters"]),
    ("W2: what an entry makes readable is not there yet",
     {"core/image/image.cpp": [("    TRY(flush_stores());  // W2, W1\n    if (sealed.empty())\n        return {};\n",
       "    if (sealed.empty())\n        return flush_stores();\n")]},
     ["any_image"]),
    ("W2: what changes while tables are written goes down with them",
     {"core/image/table_cache.cpp": [("    if (piece->writing && piece->sealed.empty())\n        piece->sealed = piece->bytes;\n", "")]},
     ["threads"]),
    ("W2: every cluster is called fresh",
     {"core/image/allocator.cpp": [("    return cluster >= fresh_mark_ && geometry_.offset_of(cluster).value >= store_.fresh_from();",
       "    return cluster.value != 0;")]},
     ["any_image"]),
    ("W3: refcounts fall before the names are gone",
     {"core/image/image.cpp": [("        released = sealed.released;\n", ""),
      ("    TRY(mapping_.write(sealed));\n",
       "    for (const HostRun &run : sealed.released)\n        give_back(run);\n"
       "    TRY(mapping_.write(sealed));\n")]},
     ["any_image"]),
    ("W3: a cluster is used again before its name is gone",
     {"core/image/mapping.cpp": [("        released_.push_back(names);\n}",
       "        allocator_.lower(names);\n}")]},
     ["any_image", "small_clusters"]),
    ("W3: a cluster is looked for where it was",
     {"core/image/mapping.cpp": [("        lookaside_.forget(first + i, 1);\n", "")]},
     ["any_image", "small_clusters"]),
    ("W3: a hole is punched before the name is gone",
     {"core/image/image.cpp": [("    TRY(flush_stores());  // W2, W1\n",
       "    for (const HostRun &run : sealed.released)\n"
       "        for (const HostRun &last : allocator_.last_references(run))\n"
       "            (void)store_.discard(geometry_.offset_of(last.first).value,\n"
       "                                 last.count * geometry_.cluster_size());\n"
       "    TRY(flush_stores());  // W2, W1\n")]},
     ["any_image"]),
    ("W4: a guest flush does not wait for the mapping",
     {"core/image/image.cpp": [("    return store_.flush();  // W4\n", "    return {};\n")]},
     ["any_image"]),
    ("W5: a failed flush is believed later",
     {"core/image/guarded_store.cpp": [("    failed_ = true;  // W5\n", "")]},
     ["a_flush_that_fails"]),
    ("W6: a shared cluster is written in place",
     {"core/image/data_path.cpp": [("    return data && data->copied;\n", "    return data != nullptr;\n")]},
     ["resized_and_reverted"]),
    ("W6: bit 63 is set while the refcount is not 1 yet",
     {"core/image/snapshot_change.cpp": [("    const auto count = [&](CountChanges &changes) -> Result<void> {\n        TRY(gone.count_names(-1, changes));\n",
       "    CountChanges early;\n    TRY(gone.count_names(-1, early));\n    TRY(put_right_in_place(active, early));\n"
       "    const auto count = [&](CountChanges &changes) -> Result<void> {\n        TRY(gone.count_names(-1, changes));\n")]},
     ["resized_and_reverted_without_room"]),
    ("W8: what crosses the old end of the file does not wait",
     {"core/image/guarded_store.cpp": [("    if (end == 0 || offset >= end || offset + length <= end)\n        return {};\n",
       "    if (end == 0 || length != 0)\n        return {};\n")]},
     ["a_file_that_ends_inside_a_sector"]),
    ("H1: the header names what is not there yet",
     {"core/image/aside.cpp": [("    TRY(image_.store().flush());\n    TRY(image_.header().commit(change));",
       "    TRY(image_.header().commit(change));")]},
     ["any_image", "small_clusters"]),
]


def mutated(path, changes):
    text = (SOURCES / path).read_text()
    for there, instead in changes:
        if text.count(there) != 1:
            raise SystemExit(f"{path}: this is there {text.count(there)} times, not once:\n{there}")
        text = text.replace(there, instead)
    return text


def cases(program):
    """Those of the simulator, that is of the suite `crash`."""
    listed = subprocess.run([program, "--list_content"], capture_output=True, text=True)
    lines = (listed.stdout + listed.stderr).splitlines()
    return [line.strip().rstrip("*") for line in lines[1:lines.index("repair_crash*")]
            if re.match(r"    \S", line)]


def survives(program, order):
    """None, or in words how it was found."""
    for case in order:
        try:
            done = subprocess.run([program, f"--run_test=crash/{case}"], capture_output=True, text=True,
                                 errors="replace", timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return f"{case} hangs"
        if done.returncode != 0:
            said = [line for line in done.stdout.splitlines() + done.stderr.splitlines()
                    if "error" in line or "INVARIANT" in line]
            return f"{case}: {said[0].split('error', 1)[-1][:150] if said else done.returncode}"
    return None


def run(command):
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{command}\n{done.stderr}")


def build(folder, files):
    objects = []
    for path, changes in files.items():
        source = folder / (path.replace("/", "-"))
        source.write_text(mutated(path, changes))
        objects.append(f"{source}.o")
        run(f"{os.environ['COMPILE']} -Wno-error -c {source} -o {source}.o")
    program = folder / "mutant"
    run(f"{os.environ['LINK']} -o {program} {os.environ['OBJECTS']} {' '.join(objects)} "
        f"{os.environ['LIBRARIES']}")
    return program


def try_mutation(name, files, order):
    """Whether it was found, and a line that says how."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        program = build(pathlib.Path(folder), files)
        how = survives(program, order)
    verdict = "PASS" if how else "FAIL"
    return bool(how), (f"{verdict}: {name} ({time.monotonic() - began:.0f} s): "
                       f"{how or 'no test has found it'}")


def main():
    wanted = os.environ.get("MUTATION", "")
    all_cases = cases("crash/crash_tests")
    # That all can be made is known before the first is tried.
    for _, files, _ in MUTATIONS:
        for path, changes in files.items():
            mutated(path, changes)
    found = lost = 0
    # One for each processor.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        tries = [pool.submit(try_mutation, name, files,
                             first + [case for case in all_cases if case not in first])
                 for name, files, first in MUTATIONS if wanted in name]
        for done in concurrent.futures.as_completed(tries):
            was_found, line = done.result()
            found += was_found
            lost += not was_found
            print(line, flush=True)
    print(f"{found} passed, {lost} failed, 0 skipped")
    return lost != 0 or found == 0


sys.exit(main())
