#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# package.sh TARBALL: the Debian packages in another release of Debian, as root.
# `make check-package SUITE=trixie` runs it, with the variables of chroot.sh.
#
# First in the chroot of suite.sh, as who makes packages: built twice, in two folders, at
# two times and with two umasks, they are the same byte for byte, and lintian says nothing.
# Then in a chroot with the least that Debian needs, made anew, as who has them: installed
# by apt, which finds what they depend on, used and removed; nothing is left of them.
#
# The last line is a sum: N passed, N failed, N skipped.

set -u -o pipefail

# shellcheck source=tests/chroot.sh
. "$(dirname "$0")/chroot.sh"
tarball=${1:?which one? make check-package SUITE=trixie}
scripts=$(cd "$(dirname "$0")/../scripts" && pwd)
builder=$chroots/$suite-$arch
user=$chroots/$suite-$arch-clean
passed=0 failed=0

# step NAME COMMAND...: one result.
step()
{
    local name=$1
    shift
    echo
    echo "=== $suite: $name"
    if "$@"; then
        passed=$((passed + 1))
        return
    fi
    failed=$((failed + 1))
    echo "=== $suite: $name: FAILED"
    return 1
}

# inside FOLDER NAME COMMANDS: in the chroot; what they say goes to FOLDER.NAME.log, and of
# what fails the end is shown.
inside()
{
    enter_chroot "$1" "$3" >"$1.$2.log" 2>&1 && return
    tail -n 40 "$1.$2.log"
    return 1
}

prepare_builder()
{
    make_chroot "$builder"
    rm -rf "$builder/packages"
    mkdir "$builder/packages" && cp "$tarball" "$scripts/deb.sh" "$builder/packages" || return
    tar -xzf "$tarball" -C "$builder/packages" || return
    inside "$builder" packages '
        apt-get -q update && apt-get -q -y install dpkg-dev lintian &&
        apt-get -q -y build-dep /packages/qcow2bitmap-*/'
}

# build FOLDER UMASK
build()
{
    inside "$builder" deb "
        umask $2; mkdir -p /packages/$1/tmp && cd /packages/$1 &&
        TMPDIR=/packages/$1/tmp bash ../deb.sh ../qcow2bitmap-*.tar.gz ." || return
    tail -n 4 "$builder.deb.log"
    grep -q 'lintian: nothing to say' "$builder.deb.log"
}

# The packages, those with debug information among them, which names the folder of the
# compiler if anything does.
compare_builds()
{
    local one number=0
    for one in "$builder"/packages/first/*.deb; do
        cmp "$one" "$builder/packages/the-second/$(basename "$one")" || return
        number=$((number + 1))
    done
    echo "$number packages"
    [ "$number" -ge 2 ]
}

install_packages()
{
    rm -rf "$user"
    make_chroot "$user"
    mkdir "$user/packages" && cp "$builder"/packages/first/*.deb "$user/packages" &&
        cp "$builder"/packages/qcow2bitmap-*/debian/tests/serve "$user/packages" || return
    inside "$user" install '
        set -eu
        cd /packages
        rm -f *-dbgsym_*
        apt-get -q update
        apt-get -q -y --no-install-recommends install ./*.deb
        cat /var/lib/dpkg/info/{nbdkit-qcow2bitmap-filter,qcow2bitmap}.list | sort -u >files
        nbdkit --version
        qcow2bitmap --version' || return
    tail -n 2 "$user.install.log"
}

# The test that the package has, and a backup of a disk that is being served.
use_packages()
{
    inside "$user" use '
        set -eu
        apt-get -q -y --no-install-recommends install libnbd-bin python3-libnbd >/dev/null
        sh /packages/serve
        mkdir -p /use/saved && cd /use
        qemu-img create -q -f qcow2 disk.qcow2 64M
        nbdkit -f -U disk.sock --filter=qcow2bitmap file disk.qcow2 qcow2-control=disk.qmp &
        server=$!
        for i in {1..100}; do [ -S disk.qmp ] || sleep 0.1; done
        nbdsh -u "nbd+unix:///?socket=disk.sock" -c "h.pwrite(b\"a\" * 65536, 0, 0)"
        qcow2bitmap -s disk.qmp backup saved
        nbdsh -u "nbd+unix:///?socket=disk.sock" -c "h.pwrite(b\"b\" * 65536, 1 << 20, 0)"
        qcow2bitmap -s disk.qmp backup saved
        kill $server && wait $server
        qcow2bitmap restore saved restored.qcow2
        qemu-img compare -f qcow2 -F qcow2 disk.qcow2 restored.qcow2
        qemu-img check -q disk.qcow2' || return
    grep 'Images are identical' "$user.use.log"
}

remove_packages()
{
    inside "$user" remove '
        set -eu
        apt-get -q -y purge nbdkit-qcow2bitmap-filter qcow2bitmap
        left=
        while read -r file; do
            if [ -f "$file" ] || [ "$file" = /usr/share/qcow2bitmap -a -e "$file" ]; then left+=" $file"; fi
        done </packages/files
        if [ -n "$left" ]; then echo "left:$left"; exit 1; fi
        if nbdkit --filter=qcow2bitmap null --help; then echo "nbdkit still has the filter"; exit 1; fi'
}

step "what is needed to build" prepare_builder &&
    step "built, and lintian says nothing" build first 022 &&
    step "built once more" build the-second 002 &&
    step "both are the same" compare_builds
step "installed" install_packages &&
    step "used" use_packages &&
    step "removed" remove_packages

echo
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
