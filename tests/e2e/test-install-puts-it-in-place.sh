#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# `make install DESTDIR=` puts the filter where nbdkit looks for it (or where
# --with-filterdir said), the program qcow2bitmap with its folder, the man pages and the
# completion in their places, and nothing else; the filter has no debug information unless
# STRIP=: asks for it; what was installed works, by its path and by its name, and wherever
# it was moved to; `make uninstall` takes all away.

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
[ -f "$installed" ] || fail "no filter: $(find root)"
program=$tmp/root$(expanded '$(bindir)')/qcow2bitmap
completion=$tmp/root$(expanded '$(datadir)')/bash-completion/completions/qcow2bitmap
same "$(find "$tmp/root" ! -type d | LC_ALL=C sort)" "$({
    printf '%s\n' "$installed" "$program" "$completion"
    printf "$tmp/root$man1dir/%s.1\n" nbdkit-qcow2bitmap-filter qcow2bitmap
    for i in "$top_srcdir"/tools/*.py VERSION; do
        echo "$tmp/root$(expanded '$(datadir)')/qcow2bitmap/${i##*/}"
    done
} | LC_ALL=C sort)"

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

step "the program and its completion, where they are and elsewhere"
mkdir backups
same "$("$program" --quiet verify backups)" ""
"$program" status 2>status.out && fail "without a socket"
says "SOCKET is missing" status.out || fail "$(cat status.out)"
same "$(find root -name __pycache__)" ""
cp -r root moved
ln -s "$tmp/moved${program#"$tmp/root"}" link
same "$(./link verify backups)" "backups: 0 backups, all sound"
version="qcow2bitmap $(cat "$top_srcdir/VERSION")"
same "$("$program" --version)" "$version"
same "$(./link --version)" "$version"
same "$("$PYTHON" -IB "$top_srcdir/tools" --version)" "$version"

# completed WORD...: what is offered for the last of them.
completed()
{
    bash -c '. "$0"; COMP_WORDS=(qcow2bitmap "$@") COMP_CWORD=$#
        _qcow2bitmap qcow2bitmap "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"; echo "${COMPREPLY[*]}"' "$completion" "$@"
}
same "$(completed s)" "snapshot status stop"
same "$(completed -s x snapshot re)" "revert"
same "$(completed bitmap add --d)" "--disabled"
same "$(completed -s x backup --)" "--bitmap --compress --full --nbd --rate --verify --help --json --node --quiet --socket"
same "$(completed restore --format "")" "qcow2 raw"
# All that the program has, and nothing else: what its usage says.
for i in "" backup bitmap "bitmap add" "bitmap clear" "bitmap merge" list prune resize restore snapshot \
    "snapshot list" status stop verify; do
    same "$(completed $i -- | tr ' ' '\n' | LC_ALL=C sort)" \
        "$("$program" $i --help | grep -oE -- '--[a-z]+' | LC_ALL=C sort -u)" "$i"
done

step "uninstall"
make -s -C "$top_builddir" uninstall DESTDIR="$tmp/root" >install.out 2>&1 || fail "$(cat install.out)"
same "$(find root -type f)" ""
