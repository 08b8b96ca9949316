#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# The filter's own help, the man page and the README speak of the same keys.

. "${srcdir:-$(dirname "$0")/..}"/tidy/functions.sh

command -v nbdkit >/dev/null || skip "no nbdkit"
[ -z "${SANITIZER_PRELOAD:-}" ] || skip "nbdkit cannot load a filter that has a sanitizer in it"
[ -f "${FILTER:-}" ] || skip "no FILTER: run it by make check"

man=man/nbdkit-qcow2bitmap-filter.pod

# The filter's part of the help: from its line to the plugin's.
help_keys=$(nbdkit --filter="$FILTER" null --help </dev/null |
    sed -n '/^filter: qcow2bitmap/,/^plugin:/p' |
    sed -n -E 's/^ *([a-z][a-z0-9-]*)=.*/\1/p' | LC_ALL=C sort -u)
man_keys=$(sed -n -E 's/^=item B<([a-z][a-z0-9-]*)=.*/\1/p' "$man" | LC_ALL=C sort -u)

[ -n "$help_keys" ] || problem "nbdkit --help shows no key of the filter"

for key in $help_keys; do
    grep -qx -- "$key" <<<"$man_keys" || problem "$man has no entry for $key="
    grep -q -- "\`$key=" README.md || problem "README.md does not mention $key="
done
for key in $man_keys; do
    grep -qx -- "$key" <<<"$help_keys" || problem "the filter does not know $key=, which $man has"
done

# And of the same default of the memory for metadata.
enough=$(nbdkit --filter="$FILTER" null --help </dev/null | grep -oE 'enough for [0-9]+G')
for document in README.md "$man"; do
    grep -q -- "$enough" "$document" || problem "$document does not say '$enough', as the help does"
done

echo "keys:" $help_keys
finish
