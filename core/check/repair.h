// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// repair: puts refcounts right by what the image's own tables name, as
// `qemu-img check -r` does, through base and format alone.
//
//   leaks  lowers refcounts that are too high (never raises one), sets bit 63
//          where that leaves a cluster with one owner, gives the clusters back.
//   all    besides, raises those that are too low, makes the refcount table and
//          blocks anew where they are missing or bad, and puts bit 63 of the
//          active tree right.
//
// Neither lets the file grow over what a name behind its end leads to: such names
// are put out of reach first (lost_names.h), by `all` in any case. If one has to
// stay then the file does not grow.
//
// A table in whose clusters something else lies, too, as in an image where two
// tables name one cluster, is written neither in place nor anew: whose the words are
// is not known. What it names keeps its refcount, which bit 63 in it goes with.
//
// The dirty bit is cleared when the refcounts can be trusted, the corrupt bit
// when nothing is corrupt any more. What is wrong besides is left as it is, and
// stands in the report. If a table cannot be followed, what it named is not
// known: then nothing is lowered.
//
// Order of writes, so that an end in the middle makes nothing worse:
//
// O1  One flush goes before the first write.
//     Lost names are put out of reach, durable, before the file grows.
// W6  Bits 63 that must go from tables which are shared and have other things
//     wrong: in place, durable.
// H1  Where refcount structures or bit 63 must change, all of it is made aside,
//     in clusters that nothing names: refcount table and blocks, and the L1
//     table and those L2 tables that change. When it is durable, one write of
//     the header's sector switches to it. Old and new are each complete.
// W6  Where there is no room for that, or only counts change: in place. Bits
//     that must go, durable; counts that rise, durable; counts that fall,
//     durable; bits that come. With no bit to change this is as good; with
//     some, check finds bit 63 wrong if it ends between.
// W3  Clusters are punched out when their refcount is durably 0.
// The dirty and the corrupt bit go last, after all has been checked again.
//
// One thread, and nobody else uses the store.

#pragma once

#include "core/check/check.h"

namespace qcow2 {

enum class RepairKind { leaks, all };

struct RepairReport {
    CheckReport before;
    CheckReport after;
    bool changed = false;  // something was written
};

// An error: the image cannot be followed at all, the store cannot be read or
// written, refcounts would not fit their width (unsupported; no refcount was
// written), no room (no_space). After an error in the middle the image is no
// worse than it was, in the sense of the above.
Result<RepairReport> repair(ByteStore &store, RepairKind kind);

// True if the header has the dirty bit (lazy refcounts, not closed cleanly):
// refcounts may be too low, and must be repaired before anything is written.
// Not if it has the corrupt bit as well: then a person has to look.
Result<bool> needs_repair(ByteStore &store);

}  // namespace qcow2
