# SPDX-License-Identifier: BSD-3-Clause
# Copyright (C) 2026 The qcow2bitmap authors.
#
# What one can say on the command line, and how it ends: see qcow2bitmap(1).

import argparse
import os
import sys

import backup
import failure
import prune
import restore
import server
import show
from failure import DONE, FAILED, WRONG_USAGE, Failure


def main(words):
    arguments = _parser().parse_args(words)
    if arguments.needs_socket and not arguments.socket:
        return _wrong_usage("-s SOCKET is missing: the server's control socket (qcow2-control=)")
    failure.is_quiet = arguments.quiet
    failure.end_by_signals()
    try:
        arguments.run(arguments)
        sys.stdout.flush()
        return DONE
    except Failure as reason:
        failure.warn(reason)
        return reason.status
    except BrokenPipeError:  # | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        failure.warn(f"{error.filename}: {error.strerror}" if error.filename else error)
        return FAILED


def _wrong_usage(message):
    failure.warn(f"{message}\nqcow2bitmap --help says more.")
    return WRONG_USAGE


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        sys.exit(_wrong_usage(message))


def _parser():
    parser = _Parser(prog="qcow2bitmap", description="Manage and back up a disk that nbdkit "
                     "serves with the qcow2bitmap filter.", epilog="qcow2bitmap(1) says more.",
                     allow_abbrev=False)
    _add_general(parser, None)
    parser.add_argument("--version", action="version", version=f"qcow2bitmap {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    _add_management(commands)
    _add_bitmap(commands)
    _add_snapshot(commands)
    _add_backup(commands)
    _add_folder(commands)
    return parser


def _version():
    """What is installed has the file beside this one; the source tree has it further up."""
    here = os.path.dirname(os.path.realpath(__file__))
    for folder in (here, os.path.dirname(here)):
        try:
            with open(os.path.join(folder, "VERSION"), encoding="ascii") as file:
                return file.read().strip()
        except FileNotFoundError:
            pass
    return "of unknown version"


def _add_general(parser, default):
    """Before the command, or behind it."""
    add = parser.add_argument
    add("-s", "--socket", metavar="SOCKET", default=default,
        help="the server's control socket (qcow2-control=)")
    add("--node", metavar="NAME", default=default,
        help="a disk of a server of QEMU that has several")
    add("--json", action="store_true", default=default or False, help="for programs")
    add("-q", "--quiet", action="store_true", default=default or False,
        help="say only what went wrong")


def _command(commands, name, run, words, socket=True, **more):
    parser = commands.add_parser(name, help=words, description=words, allow_abbrev=False)
    _add_general(parser, argparse.SUPPRESS)
    parser.set_defaults(run=run, needs_socket=socket, **more)
    return parser.add_argument


def _group(commands, name, words):
    """Of commands with two words."""
    parser = commands.add_parser(name, help=words, description=words, allow_abbrev=False)
    _add_general(parser, argparse.SUPPRESS)
    return parser.add_subparsers(metavar="WHAT", required=True, parser_class=_Parser)


def _add_management(commands):
    _command(commands, "status", server.status, "the disk, its bitmaps, snapshots and backups")
    add = _command(commands, "resize", server.resize, "give the disk another size")
    add("size", type=_size, metavar="SIZE", help="for instance 20G")
    add("--shrink", action="store_true", help="it may become smaller, and lose what is behind")
    _command(commands, "stop", server.stop, "stop the server, whoever is connected")


def _add_bitmap(commands):
    group = _group(commands, "bitmap", "dirty bitmaps")
    _command(group, "list", server.bitmap_list, "the bitmaps")
    add = _command(group, "add", server.bitmap_add, "make one, which records from now on")
    add("name", metavar="NAME")
    add("--granularity", type=_size, metavar="SIZE", help="how much of the disk one bit stands for")
    add("--disabled", action="store_true", help="it does not record")
    for name, words in (("remove", "take one out of the image"), ("clear", "set no bit"),
                        ("enable", "record from now on"), ("disable", "do not record any more")):
        add = _command(group, name, server.bitmap_change, words, what=name)
        add("name", metavar="NAME")
        add("--force", action="store_true", help="even if a chain of backups relies on it")
    add = _command(group, "merge", server.bitmap_merge, "set the bits of others, too")
    add("target", metavar="TARGET")
    add("sources", metavar="SOURCE", nargs="+")


def _add_snapshot(commands):
    group = _group(commands, "snapshot", "internal snapshots")
    _command(group, "list", server.snapshot_list, "the snapshots")
    add = _command(group, "create", server.snapshot_create, "keep the disk as it is now")
    add("name", metavar="NAME")
    add = _command(group, "delete", server.snapshot_delete, "remove one")
    add("name", metavar="ID-OR-NAME")
    add = _command(group, "revert", server.snapshot_revert, "make the disk what it was then")
    add("name", metavar="ID-OR-NAME")


def _add_backup(commands):
    add = _command(commands, "backup", backup.run,
                   "back up the disk: what has changed, or all of it if that is not known")
    _add_the_folder(add)
    add("--bitmap", metavar="NAME", default="backup", type=_bitmap_name,
        help="how the names of the bitmaps begin that it makes (default: backup)")
    add("--full", action="store_true", help="all of it, and a new chain of incremental ones")
    add("--compress", action="store_true", help="by zstd")
    add("--verify", action="store_true", help="compare all of it with the disk as it was frozen")
    add("--rate", type=_size, metavar="RATE", help="bytes each second, at most: 50M")
    add("--nbd", metavar="SOCKET-OR-URI", help="where the server's NBD clients connect")


def _add_folder(commands):
    add = _command(commands, "list", restore.list_backups, "the backups in a folder", False)
    _add_the_folder(add)
    add = _command(commands, "restore", restore.restore, "a disk as it was", False)
    _add_the_folder(add)
    add("target", metavar="FILE-OR-NBD-URI")
    add("--at", metavar="TIME", help="the last backup not later than that; or its id")
    add("--format", choices=("qcow2", "raw"), help="of the file (default: qcow2)")
    add("--verify", action="store_true", help="compare it with the backup")
    add("--force", action="store_true", help="overwrite what is there")
    add = _command(commands, "verify", restore.verify, "whether all of them can be restored", False)
    _add_the_folder(add)
    add = _command(commands, "prune", prune.run, "remove the oldest ones", False)
    _add_the_folder(add)
    add("--keep", type=_count, metavar="N", required=True, help="so many stay")
    add("--compress", action="store_true", help="the full one that has to be written")


def _add_the_folder(add):
    add("folder", metavar="DIR", help="the folder of backups")


def _size(text):
    try:
        return show.parsed_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not 1 or more")
    return int(text)


def _bitmap_name(text):
    if not text or "@" in text or len(text.encode()) > 900:
        raise argparse.ArgumentTypeError(f"'{text}' cannot be the beginning of a bitmap's name")
    return text
