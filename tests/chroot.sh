# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# chroot.sh: other releases of Debian in folders, for suite.sh and package.sh, which read it
# with `.`. It takes
#
#   SUITE       trixie, sid, ...; what debootstrap knows
#   ARCH        amd64, i386, ...; that of this machine
#   CHROOTS     the folder for them: /var/tmp/qcow2bitmap-suites
#   MIRROR      http://deb.debian.org/debian
#
# and works as root.

suite=${SUITE:?which one? SUITE=sid}
arch=${ARCH:-$(dpkg --print-architecture)}
chroots=${CHROOTS:-/var/tmp/qcow2bitmap-suites}
mirror=${MIRROR:-http://deb.debian.org/debian}

say() { echo "suite $suite, $arch: $*"; }
die() { say "$*" >&2; exit 1; }

[ "$(id -u)" -eq 0 ] || die "only the superuser can make a chroot"
command -v debootstrap >/dev/null || die "debootstrap is missing (apt-get install debootstrap)"

# make_chroot FOLDER: with the least that Debian needs. One that is there stays.
make_chroot()
{
    [ ! -f "$1/etc/made" ] || return 0
    say "debootstrap"
    rm -rf "$1"
    mkdir -p "$chroots"
    debootstrap --variant=minbase --arch="$arch" "$suite" "$1" "$mirror" >"$1.log" 2>&1 ||
        { tail -n 20 "$1.log" >&2; die "debootstrap failed; all of it: $1.log"; }
    # A mirror may stand still, as snapshots of Debian do: what it signed has run out then.
    echo 'Acquire::Check-Valid-Until "false";' >"$1/etc/apt/apt.conf.d/90stands-still"
    # If the power goes, it is made anew.
    printf '%s\n' force-unsafe-io 'path-exclude=/usr/share/locale/*' >"$1/etc/dpkg/dpkg.cfg.d/chroot"
    : >"$1/etc/made"
}

# enter_chroot FOLDER COMMANDS: runs them there by bash, in name spaces of its own. What is
# mounted here nobody else sees, and what is started is gone with the last process.
enter_chroot()
{
    # shellcheck disable=SC2016
    root=$1 unshare --mount --pid --fork --kill-child bash -c '
        mount --rbind /dev "$root/dev" && mount --make-rslave "$root/dev" &&
        mount --rbind /sys "$root/sys" && mount --make-rslave "$root/sys" &&
        mount -t proc proc "$root/proc" &&
        cp /etc/resolv.conf "$root/etc/resolv.conf" &&
        exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
            DEBIAN_FRONTEND=noninteractive LC_ALL=C chroot "$root" bash -c "$0"
        ' "$2" </dev/null
}
