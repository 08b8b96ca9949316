#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# `make install DESTDIR=` puts the filter where nbdkit looks for it (or where
# --with-filterdir said), and the man page in its place, and nothing else; the filter has
# no debug information unless STRIP=: asks for it; what was installed works, by its path
# and by its name; `make uninstall` takes all away.

. "${srcdir:-$(dirname "$0")/..}"/functions.sh

requires make pkg-config
[ -f "$top_builddir/filter/Makefile" ] || skip "no build tree"
# Not as a part of the make that runs us.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES

# expanded TEXT: what make takes it for, with the variables of configure.
expanded() { (cd "$top_builddir/filter" && printf 'include Makefile\nshow:\n\t@echo %s\n' "$1" | make -s -f - show); }

filterdir=$(expanded '$(filterdir)')
man1dir=$(expanded '$(mandir)/man1')
configured=$("$top_builddir/config.status" --config | tr -d "'" | grep -o -- '--with-filterdir=[^ ]*' || true)
if [ -n "$configured" ]; then
    same "$filterdir" "$(expanded "${configured#--with-filterdir=}")"
else
    same "$filterdir" "$(pkg-config --variable=filterdir nbdkit)"
    same "$filterdir" "$(nbdkit --dump-config | sed -n s/^filterdir=//p)"
fi

step "install"
make -s -C "$top_builddir" install DESTDIR="$tmp/root" >install.out 2>&1 || fail "$(cat install.out)"
installed=$tmp/root$filterdir/nbdkit-qcow2bitmap-filter.so
page=$tmp/root$man1dir/nbdkit-qcow2bitmap-filter.1
[ -f "$installed" ] || fail "no filter: $(find root)"
[ -f "$page" ] || fail "no man page: $(find root)"
same "$(find root ! -type d | wc -l)" 2

# has_debug FILE
has_debug() { LC_ALL=C grep -qF .debug_info "$1"; }
has_debug "$installed" && fail "it is not stripped: $(ls -l "$installed")"
make -s -C "$top_builddir" install DESTDIR="$tmp/whole" STRIP=: >install.out 2>&1 || fail "$(cat install.out)"
if has_debug "$top_builddir/filter/nbdkit-qcow2bitmap-filter.so"; then
    has_debug "$tmp/whole$filterdir/nbdkit-qcow2bitmap-filter.so" || fail "STRIP=: strips"
fi

step "by its path"
make_qcow2 disk.qcow2 64M
start main "${nbdkit_command[@]}" -f -U "$tmp/main.sock" -P "$tmp/main.pid" --filter="$installed" \
    file disk.qcow2 bitmap=b0
client <<<'h.pwrite(b"x" * 512, 0); h.shutdown()'
stop
same "$(dirty_map b0 disk.qcow2)" "0+65536"

step "by its name, where nbdkit looks for it"
real=$(nbdkit --dump-config | sed -n s/^filterdir=//p)
seen=(unshare -m bash -c 'mount --bind "$0" "$1" && shift && exec "$@"' "$(dirname "$installed")" "$real")
if [ "$(id -u)" -eq 0 ] && "${seen[@]}" true 2>/dev/null; then
    start main "${seen[@]}" "${nbdkit_command[@]}" -f -U "$tmp/main.sock" -P "$tmp/main.pid" \
        --filter=qcow2bitmap file disk.qcow2
    client <<<'h.pwrite(b"y" * 512, 1 << 20); h.shutdown()'
    stop
    same "$(dirty_map b0 disk.qcow2)" "0+65536"$'\n'"1048576+65536"
else
    echo "this needs the superuser and mount namespaces"
fi

step "uninstall"
make -s -C "$top_builddir" uninstall DESTDIR="$tmp/root" >install.out 2>&1 || fail "$(cat install.out)"
same "$(find root -type f)" ""
