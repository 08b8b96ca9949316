# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# For the tests of tidiness. They start in the root of the source tree.

set -eu -o pipefail

top_srcdir=${top_srcdir:-$(dirname "$0")/../..}
cd "$top_srcdir"

problems=0
problem() { echo "$*"; problems=$((problems + 1)); }

# skip REASON
skip() { echo "$*"; exit 77; }

# The last line of a test.
finish()
{
    [ "$problems" -eq 0 ] || { echo "$problems found"; exit 1; }
}

# tree_files FOLDER...: what git has there; in a tarball, what is there.
tree_files()
{
    if [ -e .git ] && git ls-files >/dev/null 2>&1; then
        git ls-files -- "$@"
    else
        find "$@" -type f ! -name Makefile.in ! -name Makefile ! -path '*/.*' ! -name '*.[oa]' \
            ! -name '*.l[oa]' ! -name '*.log*' ! -name '*.trs' ! -name '*_tests' ! -name '*.1'
    fi | LC_ALL=C sort
}
