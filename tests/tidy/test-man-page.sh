#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The man pages are sound, have their sections in order (the filter's in nbdkit's),
# and keep their examples within a terminal.

. "${srcdir:-$(dirname "$0")/..}"/tidy/functions.sh

command -v podchecker >/dev/null || skip "no podchecker"

# page FILE SECTIONS
page()
{
    local man=$1 sections line
    podchecker -warnings -warnings "$man" 2>&1 || problem "podchecker is not content"
    sections=$(sed -n 's/^=head1 //p' "$man" | paste -sd, -)
    [ "$sections" = "$2" ] || problem "$man: sections are $sections"
    while read -r line; do
        problem "$man:$line: more than 76 columns"
    done < <(grep -nE '^ .{76}' "$man" | cut -d: -f1 || true)
}

page man/nbdkit-qcow2bitmap-filter.pod \
    "NAME,SYNOPSIS,DESCRIPTION,PARAMETERS,EXPORTS,CONTROL,EXAMPLES,NOTES,FILES,VERSION,SEE ALSO,AUTHORS,COPYRIGHT"
page man/qcow2bitmap.pod \
    "NAME,SYNOPSIS,DESCRIPTION,OPTIONS,MANAGING A DISK,BACKUPS,EXAMPLES,EXIT STATUS,FILES,SEE ALSO,AUTHORS,COPYRIGHT"

# What the program knows and what its page has.
option_names() { grep -oE -- '--[a-z][a-z-]+' "$1" | LC_ALL=C sort -u; }
while read -r line; do
    problem "man/qcow2bitmap.pod and tools/cli.py: not both have $line"
done < <(LC_ALL=C comm -3 <(sed -n '/^=head1 OPTIONS/,/^=head1 EXAMPLES/p' man/qcow2bitmap.pod | option_names -) \
    <(option_names tools/cli.py))

finish
