#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The version stands in VERSION; whatever else has to name it says the same.

. "${srcdir:-$(dirname "$0")/..}"/tidy/functions.sh

version=$(cat VERSION)

# names FILE SED-SCRIPT: prints the first version that the file names.
names()
{
    local named
    named=$(sed -nE "$2" "$1" | head -n 1)
    [ "$named" = "$version" ] || problem "$1 names version '$named', VERSION '$version'"
}

names NEWS.md 's/^## ([0-9.]+)$/\1/p'
names debian/changelog 's/^qcow2bitmap \(([0-9.]+)-[0-9]+\) .*/\1/p'
names qcow2bitmap.spec 's/^Version: +//p'
names qcow2bitmap.spec 's/^\* .* ([0-9.]+)-[0-9]+$/\1/p'

finish
