#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The man page is sound, has its sections in nbdkit's order, and keeps its
# examples within a terminal.

. "${srcdir:-$(dirname "$0")/..}"/tidy/functions.sh

man=man/nbdkit-qcow2bitmap-filter.pod

command -v podchecker >/dev/null || skip "no podchecker"
podchecker -warnings -warnings "$man" 2>&1 || problem "podchecker is not content"

sections=$(sed -n 's/^=head1 //p' "$man" | paste -sd, -)
expected="NAME,SYNOPSIS,DESCRIPTION,PARAMETERS,EXPORTS,EXAMPLES,NOTES,FILES,VERSION,SEE ALSO,AUTHORS,COPYRIGHT"
[ "$sections" = "$expected" ] || problem "$man: sections are $sections"

while read -r line; do
    problem "$man:$line: more than 76 columns"
done < <(grep -nE '^ .{76}' "$man" | cut -d: -f1 || true)

finish
