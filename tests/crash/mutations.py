#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Does the crash simulator find what it is for? And do the tests of frozen disks?
# Each mutation below is the engine with one rule broken. It is compiled, linked into
# these tests in the place of what is in the library, and they must fail: a mutation
# that survives is a failure of this test. The sources stay as they are.
#
#   ./configure --disable-unity            a mutation takes the place of one file
#   make check-mutations                   all of them
#   make check-mutations MUTATION=W3       those with this in their names
#
# The environment (see Makefile.am): COMPILE, LINK, OBJECTS and FROZEN_OBJECTS (the crash
# tests and those of frozen disks), LIBRARIES, and srcdir, the folder tests/ of the sources.
# Works in the folder it is started in.

import concurrent.futures
import itertools
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
# Name (with the rule), {file: [(what is there once, what is in its place)]}, and the cases that
# find it soonest, of the suite `crash` where none is named; the others of `crash` follow.
MUTATIONS = [
    ("O1: no flush at open",
     {"core/image/guarded_store.cpp": [('    return opened_ ? Result<void>() : flush().in("flush before the first write");  // O1\n',
       "    return {};\n")],
      "core/disk_structure.cpp": [("    if (made && settled_)\n        made = image_->settle();\n", "")]},
     ["writes_that_fail", "any_image"]),
    ("B2: the bits are set after the change",
     {"core/disk_requests.cpp": [("    TRY(tracker_->before_change(range, place));\n", "    const Range marked = range;\n"),
      ("        range.begin = part.end;\n    }\n",
       "        range.begin = part.end;\n    }\n    TRY(tracker_->before_change(marked, place));\n")]},
     ["bits_that_come_and_go", "bits_under_threads"]),
    ("B2: arming without a barrier",
     {"core/bitmap/arming_writes.cpp": [("    TRY(store_.write_all_durable(parts));\n",
       "    for (const SmallWrite &write : held_)\n"
       "        TRY(store_.write(write.offset, write.bytes));\n"),
      ("        TRY(store_.flush());\n", "")]},
     ["bits_that_come_and_go", "bits_under_threads"]),
    ("B2: armed is believed before the barrier",
     {"core/bitmap/arming.cpp": [("            image->content = Buffer();\n",
       "            image->content = Buffer();\n            bitmap->bits.durable(*image);\n")]},
     ["bits_under_threads", "bits_that_come_and_go"]),
    ("B2: a cluster of a bitmap has a name before it is durable",
     {"core/bitmap/arming.cpp": [("    TRY(image_.store().flush());\n    ++barriers_;\n    TRY(write_tables());",
       "    TRY(write_tables());")]},
     ["bits_that_have_no_room"]),
    ("B2: the name of a bitmap's cluster is believed before it is durable",
     {"core/bitmap/arming.cpp": [('    barriers_ += TRY(writes.make_durable().in("bitmap table"));\n',
       "    TRY(writes.write());\n")]},
     ["writes_that_fail_without_room", "bits_that_come_and_go", "bits_under_threads"]),
    ("B3: an arming forgets what is armed in the same sector",
     {"core/bitmap/dirty_bits_sector.cpp": [("&bytes[word * 8], ~std::uint64_t(0));", "&bytes[word * 8], precise(word));")]},
     ["bits_that_come_and_go", "bits_under_threads"]),
    ("B3: a region is cooled that a change has made precise",
     {"core/bitmap/dirty_bits_sector.cpp": [("    armed_.fetch_and(~cooled);\n",
       "    armed_.fetch_and(~cooled);\n"
       "    for_each_bit(cooled, [&](std::uint64_t word) { precise_[word].fetch_and(Words(1) << 63); });\n")]},
     ["bits_that_come_and_go", "bits_under_threads"]),
    ("B3: a clearing write that comes late",
     {"core/bitmap/arming_cooling.cpp": [("    for (const ByteStore::Part &part : parts)\n"
       "        TRY(image_.store().write(part.offset, part.bytes).in(\"bitmap data\"));\n"
       "    bitmap.bits.written(*image);",
       "    static thread_local std::pair<Arming *, std::vector<SmallWrite>> late;\n"
       "    if (late.first == this)\n"
       "        for (const SmallWrite &write : late.second)\n"
       "            TRY(image_.store().write(write.offset, write.bytes));\n"
       "    late = {this, {}};\n"
       "    for (const ByteStore::Part &part : parts)\n"
       "        late.second.push_back({part.offset, {part.bytes.begin(), part.bytes.end()}});\n"
       "    bitmap.bits.written(*image);")]},
     ["bits_that_come_and_go", "bits_under_threads"]),
    ("B8: on-close: the mark is gone before the bits are there",
     {"core/bitmap/tracker.cpp": [("    TRY(set_in_use(false));  // B8\n", ""),
      ("    TRY(arming_.store(all, may_be_in_use_));\n",
       "    if (may_be_in_use_)\n        TRY(set_in_use(false));\n    TRY(arming_.store(all, may_be_in_use_));\n")]},
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
    ("W1: clusters are taken while refcounts are prepared that do not count them",
     {"core/disk_ajar.cpp": [("        allocator_.set_held(true);\n", ""),
      ("    if (!TRY(image_->overwrite(offset, bytes)))\n        return false;\n",
       "    TRY(image_->write(offset, bytes));\n")]},
     ["snapshots_while_threads_write"]),
    ("W1: names before refcounts",
     {"core/image/allocator.cpp": [("    Result<void> result = refcounts_.write_back();\n    if (!result) {\n        RARE",
       "    Result<void> result;\n    if (!result) {\n        RARE")]},
     ["any_image", "small_clusters"]),
    ("W2: what an entry makes readable is not there yet",
     {"core/image/image_write_back.cpp": [("    TRY(flush_stores());  // W2, W1\n    if (sealed.empty())\n        return {};\n",
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
     {"core/image/image_write_back.cpp": [("        released = sealed.released;\n", ""),
      ("    TRY(mapping_.write(sealed));\n",
       "    for (const HostRun &run : sealed.released)\n        give_back(run);\n"
       "    TRY(mapping_.write(sealed));\n")]},
     ["any_image"]),
    ("W3: a cluster is used again before its name is gone",
     {"core/image/mapping_changes.cpp": [("        released_.push_back(names);\n}",
       "        allocator_.lower(names);\n}")]},
     ["any_image", "small_clusters"]),
    ("W3: a cluster is looked for where it was",
     {"core/image/mapping_changes.cpp": [("        lookaside_.forget(first + i, 1);\n", "")]},
     ["any_image", "small_clusters"]),
    ("W3: a hole is punched before the name is gone",
     {"core/image/image_write_back.cpp": [("    TRY(flush_stores());  // W2, W1\n",
       "    for (const HostRun &run : sealed.released)\n"
       "        for (const HostRun &last : allocator_.last_references(run))\n"
       "            (void)store_.discard(geometry_.offset_of(last.first).value,\n"
       "                                 last.count * geometry_.cluster_size());\n"
       "    TRY(flush_stores());  // W2, W1\n")]},
     ["any_image"]),
    ("W4: a guest flush does not wait for the mapping",
     {"core/image/image_write_back.cpp": [("    return store_.flush();  // W4\n", "    return {};\n")]},
     ["any_image"]),
    ("W5: a failed flush is believed later",
     {"core/image/guarded_store.cpp": [("    failed_ = true;  // W5\n", "")]},
     ["a_flush_that_fails"]),
    ("W6: a shared cluster is written in place",
     {"core/image/data_path.cpp": [("    return data && data->copied;\n", "    return data != nullptr;\n")]},
     ["resized_and_reverted"]),
    ("W6: bit 63 is set while the refcount is not 1 yet",
     {"core/structure/snapshot_change.cpp": [("    gone_ = TRY(tree_of(snapshot));\n",
       "    gone_ = TRY(tree_of(snapshot));\n    CountChanges early;\n    TRY(gone_->count_names(-1, early));\n"
       "    TRY(CopiedBits(image_, *active_).put_right_in_place(early));\n")]},
     ["snapshot_crash/W6_in_place*", "resized_and_reverted_without_room"]),
    ("W6: a table is shared if its count says so",
     {"core/structure/copied_bits.cpp": [("    return names < ours || shared.tables.contains(table) || (names > ours && shared.perhaps_any);\n",
       "    return names != ours;\n")]},
     ["snapshot_crash/H1_it_takes*"]),
    ("W7: a file that was cut grows before what it has lost is put out of reach",
     {"core/disk.cpp": [('        TRY(put_lost_names_out_of_reach(image_->store()).in("the end of the file is missing"));\n', "")]},
     ["lost_names_crash/*"]),
    ("W7: what is lost is put out of reach, and not durably",
     {"core/check/lost_names.cpp": [("    return store.flush();\n", "    return {};\n")]},
     ["lost_names_crash/*"]),
    ("W8: what crosses the old end of the file does not wait",
     {"core/image/guarded_store.cpp": [("    if (end == 0 || offset >= end || offset + length <= end)\n        return {};\n",
       "    if (end == 0 || length != 0)\n        return {};\n")]},
     ["a_file_that_ends_inside_a_sector"]),
    ("H1: the header names what is not there yet",
     {"core/structure/aside.cpp": [("    TRY(image_.store().flush());\n    TRY(image_.header().commit(change));",
       "    TRY(image_.header().commit(change));")]},
     ["any_image", "small_clusters"]),
]

# The same for backups, rules F, and for what changes with them. The cases have their suites;
# all others follow.
FROZEN_DISKS = "core/backup/frozen_disks.cpp"
FROZEN_DISK = "core/backup/frozen_disk.cpp"
KEEPINGS = "core/backup/keepings.cpp"
THAW = "core/backup/thaw.cpp"
FROZEN = [
    ("H1: bitmaps change by one commit, and the snapshot comes by another",
     {"core/disk_changes.cpp": [("    SwitchCompanion change_bitmaps;\n    if (!bitmaps.empty())\n",
       "    TRY(change_bitmaps_alone(bitmaps));\n    SwitchCompanion change_bitmaps;\n    if (false)\n")]},
     ["structural_crash/H1_each_operation_on_bitmaps_takes_place_wholly_or_not_at_all"]),
    ("B2: a change passes without its bits while a snapshot is prepared",
     {"core/disk_ajar.cpp": [("    if (!TRY(tracker_->before_overwrite(range)))\n        return false;\n", "")]},
     ["order_ajar/H1_what_leaves_the_mapping_as_it_is_passes_while_a_snapshot_is_made"]),
    ("H1: requests pass while a snapshot is committed",
     {"core/disk_ajar.cpp": [("            passing.end();\n", "")]},
     ["order_ajar/H1_what_leaves_the_mapping_as_it_is_passes_while_a_snapshot_is_made"]),
    ("C10: backing and data file are opened again by their names",
     {"core/disk_structure.cpp": [("    ImageFiles files = image_->release_files();\n", "    ImageFiles files;\n")]},
     ["order_backing/a_backing_file_is_not_opened_again_by_its_name"]),
    ("F1: a change goes down before it is kept",
     {"core/disk_requests.cpp": [("        if (frozen.any() && parts == Parts::several)\n", "        TRY(change(part));\n"
       "        if (frozen.any() && parts == Parts::several)\n"),
      ("            frozen.before_change(*inside_, range);\n        TRY(change(part));\n",
       "            frozen.before_change(*inside_, range);\n")]},
     ["backup_threads/*", "backup_model/*"]),
    ("F1: a block is marked before its copy is there",
     {FROZEN_DISKS: [("keeping.scratch->write(bytes.begin, copied); written) {\n"
       "            keeping.kept.mark(blocks, Kept::data);\n",
       "(keeping.kept.mark(blocks, Kept::data), keeping.scratch->write(bytes.begin, copied)); written) {\n")]},
     ["frozen_disk/F1_a_block_is_kept_when_its_copy_is_there"]),
    ("F1: a reader does not look again",
     {FROZEN_DISK: [("        const std::uint64_t good = still_live(range);\n",
       "        const std::uint64_t good = range.length();\n")]},
     ["frozen_disk/F1_a_reader_looks_again"]),
    ("F1: who asks for extents does not look again",
     {FROZEN_DISK: [("        extent->length = still_live(Range::of(range.begin, extent->length));\n", "")]},
     ["frozen_disk/F1_a_reader_looks_again"]),
    ("F1: a reader looks again at the list that he had",
     {FROZEN_DISK: [("        const std::uint64_t good = still_live(range);\n",
       "        const auto again = keepings->source(*standing_, range.touched(block_bytes));\n"
       "        const std::uint64_t good = again.from == From::live ? end_of(range, again.blocks) - range.begin : 0;\n")]},
     ["frozen_disk/F1_a_reader_looks_at_those_that_are_newer_than_his_first_look"]),
    ("F1: an older one looks past the newer ones",
     {KEEPINGS: [("    for (++number; number-- > 0;) {\n", "    for (std::size_t own = 1; own-- > 0;) {\n")]},
     ["frozen_disk/F1_a_block_is_kept_once_by_the_newest_that_needs_it"]),
    ("F1: an older one asks the newest first",
     {KEEPINGS: [("    for (++number; number-- > 0;) {\n        const Keeping &keeping = *list_[number];\n",
       "    for (std::size_t newest = 0; newest <= number; ++newest) {\n"
       "        const Keeping &keeping = *list_[newest];\n")]},
     ["frozen_disk/F1_a_block_is_kept_once_by_the_newest_that_needs_it"]),
    ("F1: the oldest that needs a block keeps it",
     {KEEPINGS: [("    for (const auto &keeping : list_) {\n        if (blocks.begin >= keeping->blocks())",
       "    for (std::size_t i = list_.size(); i-- > 0;) {\n        const auto &keeping = list_[i];\n"
       "        if (blocks.begin >= keeping->blocks())")]},
     ["frozen_disk/F1_a_block_is_kept_once_by_the_newest_that_needs_it"]),
    ("F1: what a newer one has kept is kept once more",
     {KEEPINGS: [("        if (cut(blocks, keeping->kept.run(blocks)).kept != Kept::no)\n            break;\n"
       "        if (keeping->standing",
       "        if (cut(blocks, keeping->kept.run(blocks)).kept != Kept::no)\n            continue;\n"
       "        if (keeping->standing")]},
     ["frozen_disk/F1_a_block_is_kept_once_by_the_newest_that_needs_it"]),
    ("F1: two changes of a block both copy it",
     {FROZEN_DISKS: [("        const RangeLock::Guard claim(claims_, blocks, until);\n",
       "        const RangeLock::Guard claim(claims_, {}, until);\n")]},
     ["frozen_disks_model/F1_F2_F3_under_threads"]),
    ("F1: a block that is zero in part is kept as zeros",
     {FROZEN_DISKS: [("            const std::uint64_t first = div_ceil(at, block_bytes);\n",
       "            const std::uint64_t first = at / block_bytes;\n")]},
     ["frozen_disk/F1_a_block_that_is_zero_in_part_is_kept_whole"]),
    ("F1: a trim is let through",
     {FROZEN_DISKS: [("            goes_down = alike.zero;\n", "            goes_down = true;\n")]},
     ["frozen_disk/F1_a_trim_spares_what_is_needed"]),
    ("F1: zeros that are trimmed are not kept as zeros",
     {FROZEN_DISKS: [("            if (alike.zero)\n                need.keeping->kept.mark(here, Kept::zeros);\n", "")]},
     ["frozen_disk/F1_a_trim_spares_what_is_needed"]),
    ("F1: what one has kept that ends is gone",
     {THAW: [("        while (!list.empty() && !list.back()->standing->is_true())\n            list.pop_back();\n",
       "        std::erase_if(list, [](const auto &keeping) { return !keeping->standing->is_true(); });\n")]},
     ["frozen_disk/F1_what_a_newer_one_has_kept_outlives_it"]),
    ("F1: what an older one relies on is given back",
     {THAW: [("for_each_relied_on(keepings, number, false,", "for_each_relied_on(keepings, number, true,")]},
     ["frozen_disk/F1_what_a_newer_one_has_kept_outlives_it"]),
    ("F1: two become one, and what the older one has kept is overwritten",
     {KEEPINGS: [("        if (cut(blocks, older.kept.run(blocks)).kept != Kept::no)\n            break;\n", "")],
      "core/backup/kept_blocks.cpp": [(
       "        INVARIANT((word.fetch_or(everywhere(kept) & places_here) & places_here) == 0);\n",
       "        word.fetch_or(everywhere(kept) & places_here);\n")]},
     ["frozen_disk/F1_many_short_backups_beside_a_long_one_leave_few_files"]),
    ("F1: two become one, and the newer one's is gone",
     {THAW: [("                TRY(to.scratch->write(bytes.begin, buffer));\n            }\n"
       "            to.kept.mark(here, kept);\n", "            }\n")]},
     ["frozen_disk/F1_many_short_backups_beside_a_long_one_leave_few_files"]),
    ("F2: who waits for a copy that hangs goes down, and nobody is broken",
     {FROZEN_DISKS: [("        else\n            give_up(blocks, too_slow);\n", "")]},
     ["frozen_disk/F2_who_waits_for_a_copy_that_hangs_goes_on"]),
    ("F2: a copy may take any time",
     {FROZEN_DISKS: [("        if (Clock::now() >= until)\n            need.keeping->standing->give_up(too_slow);\n", "")]},
     ["frozen_disk/F2_a_slow_scratch_breaks_its_backup"]),
    ("F2: each part of a change has all the time",
     {FROZEN_DISKS: [("    waited.so_far_ += Clock::now() - began;\n", "")]},
     ["frozen_disk/F2_a_slow_scratch_breaks_its_backup"]),
    ("F2: what is full for one is full for all",
     {FROZEN_DISKS: [("            keeping.standing->give_up(\"what is overwritten could not be kept: \", written.error().what);\n"
       "            return 0;\n",
       "            give_up(blocks, \"full\");\n            return 0;\n")]},
     ["frozen_disk/F2_F3_a_scratch_that_is_full_breaks_its_backup_and_no_other"]),
    ("F2: what cannot be kept is forgotten",
     {FROZEN_DISKS: [("            keeping.standing->give_up(\"what is overwritten could not be kept: \", written.error().what);\n"
       "            return 0;\n", "            return blocks.length();\n")]},
     ["frozen_disk/F2_F3_a_scratch_that_is_full_breaks_its_backup_and_no_other"]),
    ("F3: a reader does not look whether it is broken by now",
     {FROZEN_DISK: [("    TRY(standing_->check());\n    bytes_read_.fetch_add", "    bytes_read_.fetch_add")]},
     ["frozen_disk/F3_a_reader_looks_last_whether_it_is_broken"]),
    ("F3: what is broken is read as far as it was kept",
     {FROZEN_DISK: [("    return standing_->check();\n}\n\n// The last thing", "    return {};\n}\n\n// The last thing"),
      ("    TRY(standing_->check());\n    bytes_read_.fetch_add", "    bytes_read_.fetch_add")]},
     ["frozen_disk/F2_F3_a_scratch_that_is_full_breaks_its_backup_and_no_other"]),
    ("F3: what could not be read is told as zeros",
     {FROZEN_DISKS: [("    keeping.kept.mark(blocks, Kept::unreadable);\n", "    keeping.kept.mark(blocks, Kept::zeros);\n")]},
     ["frozen_disk/F3_what_could_not_be_read_stays_unreadable_and_no_more"]),
    ("F2: without memory for a copy there is none, and nobody is broken",
     {FROZEN_DISKS: [("            need.keeping->standing->give_up(\"out of memory\");\n", "            return blocks.end;\n")]},
     ["frozen_disks_fault/F2_F3_wherever_memory_ends"]),
    ("F4: what changes is not recorded beside the bitmap",
     {"core/bitmap/tracker.cpp": [("            bitmap->since->record(granules);\n",
       "            bitmap->since->complete = true;\n")]},
     ["rotation/*", "backup_model/*"]),
    ("F4: a backup that has failed rotates its bitmaps, too",
     {"core/disk_begin_and_end.cpp": [("        if (success) {\n            TRY(readable());\n",
       "        if (tracker_) {\n            TRY(readable());\n")]},
     ["rotation/*", "backup_model/*"]),
    ("F4: a bitmap is rotated when its backup begins",
     {"core/disk_backups.cpp": [("    return FrozenBitmap{bitmap.name, bitmap.granularity,\n"
       "                        std::make_shared<FrozenBits>(bitmap.bits.copy_precise())};\n",
       "    const auto bits = std::make_shared<FrozenBits>(bitmap.bits.copy_precise());\n"
       "    bitmap.bits.replace_precise(SparseBits(bits->size()));\n"
       "    return FrozenBitmap{bitmap.name, bitmap.granularity, bits};\n")]},
     ["rotation/*", "backup_model/*"]),
    ("F4: the record is lost when the image is opened anew",
     {"core/disk_structure.cpp": [("    backups_.attach(*tracker_);\n", "")]},
     ["rotation/*", "backup_model/*"]),
    ("F3: a backup that is broken succeeds",
     {"core/disk_begin_and_end.cpp": [("const auto reason = ended->disk->broken(); success && reason)",
       "const auto reason = ended->disk->broken(); !success && reason && reason->empty())")]},
     ["rotation/*"]),
]


def whatever_its_lines(code):
    """A pattern for this code, wherever its lines are broken."""
    words = re.findall(r'"(?:[^"\\\n]|\\.)*"|\w+|[^\w\s]', code)
    pattern = re.escape(words[0])
    for before, word in zip(words, words[1:]):
        both = before[-1] + word[0]
        pattern += (r"\s+" if re.fullmatch(r"\w\w", both) else r"\s*") + re.escape(word)
    return pattern


def mutated(path, changes):
    text = (SOURCES / path).read_text()
    for there, instead in changes:
        text, times = re.subn(whatever_its_lines(there), lambda _, text=instead: text, text)
        if times != 1:
            raise SystemExit(f"{path}: this is there {times} times, not once:\n{there}")
    return text


def crash_cases(program):
    """Those of the simulator, that is of the suite `crash`."""
    listed = subprocess.run([program, "--list_content"], capture_output=True, text=True)
    lines = (listed.stdout + listed.stderr).splitlines()
    suite = itertools.takewhile(lambda line: line.startswith(" "), lines[lines.index("crash*") + 1:])
    return ["crash/" + line.strip().rstrip("*") for line in suite if re.match(r"    \S", line)]


def survives(program, order):
    """None, or in words how it was found."""
    for case in order:
        try:
            done = subprocess.run([program, f"--run_test={case}"], capture_output=True, text=True,
                                 errors="replace", timeout=SECONDS)
        except subprocess.TimeoutExpired:
            return f"{case} hangs"
        if "no test cases matching" in done.stdout + done.stderr:
            raise SystemExit(f"{case}: there is no such case")
        if done.returncode != 0:
            said = [line for line in done.stdout.splitlines() + done.stderr.splitlines()
                    if "error" in line or "INVARIANT" in line]
            return f"{case}: {said[0].split('error', 1)[-1][:150] if said else done.returncode}"
    return None


def run(command):
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{command}\n{done.stderr}")


def build(folder, files, test_objects):
    objects = []
    for path, changes in files.items():
        source = folder / (path.replace("/", "-"))
        source.write_text(mutated(path, changes))
        objects.append(f"{source}.o")
        run(f"{os.environ['COMPILE']} -Wno-error -c {source} -o {source}.o")
    program = folder / "mutant"
    run(f"{os.environ['LINK']} -o {program} {test_objects} {' '.join(objects)} "
        f"{os.environ['LIBRARIES']}")
    return program


def try_mutation(name, files, order, test_objects):
    """Whether it was found, and a line that says how."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        program = build(pathlib.Path(folder), files, test_objects)
        how = survives(program, order)
    verdict = "PASS" if how else "FAIL"
    return bool(how), (f"{verdict}: {name} ({time.monotonic() - began:.0f} s): "
                       f"{how or 'no test has found it'}")


def main():
    wanted = os.environ.get("MUTATION", "")
    # That all can be made is known before the first is tried.
    for _, files, _ in MUTATIONS + FROZEN:
        for path, changes in files.items():
            mutated(path, changes)
    jobs = [(name, files, first + ["*"], os.environ["FROZEN_OBJECTS"])
            for name, files, first in FROZEN if wanted in name]
    if any(wanted in name for name, _, _ in MUTATIONS):
        everything = crash_cases("crash/crash_tests")
        for name, files, first in MUTATIONS:
            first = [case if "/" in case else "crash/" + case for case in first]
            if wanted in name:
                jobs.append((name, files, first + [case for case in everything if case not in first],
                             os.environ["OBJECTS"]))
    found = lost = 0
    # One for each processor.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        tries = [pool.submit(try_mutation, *job) for job in jobs]
        for done in concurrent.futures.as_completed(tries):
            was_found, line = done.result()
            found += was_found
            lost += not was_found
            print(line, flush=True)
    print(f"{found} passed, {lost} failed, 0 skipped")
    return lost != 0 or found == 0


sys.exit(main())
