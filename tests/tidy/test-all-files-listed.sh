#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# Every file of core, filter, man, tests and tools stands in its Makefile.am, and with
# that in the tarball; each list is sorted and names nothing twice.

. "${srcdir:-$(dirname "$0")/..}"/tidy/functions.sh

for folder in core filter man tests tools; do
    listed=$(tr -s '[:space:]=' '\n' <"$folder/Makefile.am" | LC_ALL=C sort -u)
    while read -r file; do
        problem "$folder/Makefile.am does not list $file"
    done < <(tree_files "$folder" | sed "s|^$folder/||" | grep -vxF -e Makefile.am | LC_ALL=C sort |
        LC_ALL=C comm -23 - <(echo "$listed"))
done

for makefile in core/Makefile.am filter/Makefile.am tests/Makefile.am tools/Makefile.am; do
    # The lists: what follows "name = \", up to $(NULL).
    unsorted=$(LC_ALL=C awk '
        / = \\$/ { list = $1; last = ""; next }
        /\$\(NULL\)/ { list = "" }
        list != "" && $1 ~ /^[a-z0-9_][a-z0-9_.\/-]*$/ {
            if (last != "" && $1 <= last)
                print list ": " $1 " after " last
            last = $1
        }
        list != "" && !/\\$/ { list = "" }
    ' "$makefile")
    [ -z "$unsorted" ] || problem "$makefile: out of order: $unsorted"
done

finish
