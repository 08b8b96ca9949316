#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# A file includes its own floor and lower ones, never higher. core/check stands
# beside the image floor and uses base and format alone, core/backup uses the words
# of block status (image/extent.h) besides; filter/ is the only
# folder that knows nbdkit. All includes are written from the root of the tree.
#
# The files of core/image and of filter stand in rooms (core/README.md), and include
# their own and those before it.

. "${srcdir:-$(dirname "$0")/..}"/tidy/functions.sh

tree_files core filter tests | grep -E '\.(h|cpp)$' >"${TMPDIR:-/tmp}/floors.$$"
trap 'rm -f "${TMPDIR:-/tmp}/floors.$$"' EXIT

while read -r line; do
    problem "$line"
done < <(xargs awk '
    # The name of the floor that a file stands on.
    function floor_of(file,  part) {
        split(file, part, "/")
        if (file ~ /^core\/disk[^\/]*\.(h|cpp)$/) return "disk"
        if (part[1] == "core" && part[3] != "") return part[2]
        return part[1] == "filter" || part[1] == "tests" ? part[1] : "unknown"
    }
    function room(floor, files,  names, i) {
        ++rooms
        has_rooms[floor]
        split(files, names)
        for (i in names) room_of[floor, names[i]] = rooms
    }
    function name_of(file) {
        sub(/.*\//, "", file)
        sub(/\..*/, "", file)
        return file
    }
    BEGIN {
        # The floors below it, and itself.
        below["base"] = "base"
        below["format"] = "base format"
        below["image"] = "base format image"
        below["check"] = "base format check"
        below["bitmap"] = "base format image bitmap"
        below["structure"] = "base format image bitmap structure"
        below["backup"] = "base format backup"
        below["disk"] = "base format image check bitmap structure backup disk"
        below["control"] = below["disk"] " control"
        below["filter"] = below["control"] " filter"
        below["tests"] = below["filter"] " tests"
        # The rooms, one behind the other.
        room("image", "cluster_set extent guarded_store image_header named_file snapshots table_cache")
        room("image", "allocator metadata_map refcounts")
        room("image", "l1_table lookaside mapping mapping_changes")
        room("image", "backing compressed_clusters data_path data_path_zeros guest_clusters subclusters")
        room("image", "create image image_write_back open_image snapshot_reader")
        room("filter", "command_line key_values messages modules_below quiet_thread server_end server_user typing_errors")
        room("filter", "image_lock local_file local_store named_files scratch_file")
        room("filter", "barrier growth next_context next_store rehearsal_store request_pieces")
        room("filter", "backup_exports export exports idle_thread")
        room("filter", "control_events control_server control_socket")
        room("filter", "config control_host maintenance served_image served_image_announcements " \
             "served_image_control served_image_maintenance served_image_prompt")
        room("filter", "qcow2bitmap")
        for (i = 1; i < ARGC; i++) is_file[ARGV[i]] = 1
    }
    FNR == 1 {
        floor = floor_of(FILENAME)
        if (!(floor in below)) print FILENAME ": stands on no floor"
        if (floor in has_rooms && !((floor, name_of(FILENAME)) in room_of))
            print FILENAME ": stands in no room"
    }
    !/^[[:space:]]*#[[:space:]]*include/ { next }
    match($0, /".*"/) {
        header = substr($0, RSTART + 1, RLENGTH - 2)
        if (!(header in is_file))
            print FILENAME ":" FNR ": \"" header "\" is no file, seen from the root"
        else if (floor == "backup" && header == "core/image/extent.h") next
        else if (index(" " below[floor] " ", " " floor_of(header) " ") == 0)
            print FILENAME ":" FNR ": " floor " may not include " header
        else if (floor in has_rooms && floor_of(header) == floor &&
                 room_of[floor, name_of(header)] > room_of[floor, name_of(FILENAME)])
            print FILENAME ":" FNR ": " header " stands in a room behind this one"
        next
    }
    /<nbdkit/ && floor != "filter" && floor != "tests" {
        print FILENAME ":" FNR ": only filter/ knows nbdkit"
    }' <"${TMPDIR:-/tmp}/floors.$$")

finish
