#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# deb.sh TARBALL FOLDER: the Debian package from what `make dist` has made, put
# into FOLDER, with lintian's opinion if lintian is there.

set -eu -o pipefail

tarball=$1 folder=$2
name=$(basename "$tarball" .tar.gz)
version=${name#qcow2bitmap-}

command -v dpkg-buildpackage >/dev/null ||
    { echo "deb.sh: dpkg-buildpackage is missing (apt-get install dpkg-dev debhelper)" >&2; exit 1; }
work=$(mktemp -d "${TMPDIR:-/tmp}/qcow2bitmap-deb.XXXXXX")
trap 'rm -rf "$work"' EXIT

cp "$tarball" "$work/qcow2bitmap_$version.orig.tar.gz"
tar -xzf "$tarball" -C "$work"
# Not as a part of the make that runs us.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
(cd "$work/$name" && dpkg-buildpackage -us -uc -b)
mkdir -p "$folder"
cp "$work"/*.deb "$work"/*.changes "$work"/*.buildinfo "$folder"
if command -v lintian >/dev/null; then
    # It is said of a first upload to Debian, where somebody has asked for a package: not of this.
    lintian --suppress-tags initial-upload-closes-no-bugs --fail-on error,warning \
        "$folder"/*.changes && echo "lintian: nothing to say"
fi
ls -l "$folder"/*.deb
