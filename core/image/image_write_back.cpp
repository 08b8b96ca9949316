// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Image: the write-back, which makes what was changed in memory true in the file.
//
// Requests change the mapping in memory alone. What they made there may reach the file in one
// order only, or a crash in between corrupts the image. write_back() is that order:
//
//     seal    the dirty pieces of L2 tables, the dirty sectors of the L1 table and
//             the list of released clusters, all as they are at one moment
//     flush   the bytes that sealed entries make readable are durable (W2), and the
//             refcounts that count them, which were written long before (W1)
//     write   the tables, as they were when they were sealed
//     flush   the new names are durable, and the old ones are gone (W4)
//     drain   whoever still reads or writes by an old name is waited for (W3)
//     lower   what has no name any more is punched out of the file, and its refcount
//             falls; from then on the allocator may hand it out again (W3)
//
// Why sealed copies: requests go on meanwhile. An entry that changes after the first flush
// names bytes of which nothing is known to be durable; were it written with the others, the
// second flush could make the name durable before what it names. So a change of a sealed piece
// first keeps a copy of what it was (TableCache), and waits for the next write-back.
//
// Why two flushes, and not one: a device may make writes durable in any order until a flush
// returns. Between bytes and names, and between names and refcounts that fall, the order
// matters; so one stands at each of these places. The refcounts that fall need none: too high
// they leak, and no more.
//
// Why drain(): a reader looks a name up first and reads by it afterwards, with no lock in
// between. The name may go in between, and the cluster with it. The readers' gate tells when
// all who might have looked it up are done.
//
// If a step fails what was sealed is dirty again, and what was released is kept for the next
// write-back. (If it was a flush, GuardedStore refuses all writes from then on, W5.) Nothing
// is lost by that: a piece that was written, and is written again, says the same or more.
//
// One write-back at a time. A flush() that comes while one is under way cannot share it, for the
// caller's change may have come after its seal: all that wait share the next (Cycles).

#include <algorithm>
#include <utility>

#include "core/base/log.h"
#include "core/image/image.h"

namespace qcow2 {

Result<void> Image::flush()
{
    return write_backs_.run([this] { return write_back(); });
}

// The guest's bytes first: what the other store has says where they are.
Result<void> Image::flush_stores()
{
    if (data_store_)
        TRY(data_store_->flush().in("external data file"));
    return store_.flush();
}

Result<void> Image::write_sealed(const Mapping::Sealed &sealed)
{
    TRY(flush_stores());  // W2, W1
    if (sealed.empty())
        return {};
    TRY(mapping_.write(sealed));
    return store_.flush();  // W4
}

Result<void> Image::write_back()
{
    Mapping::Sealed sealed = mapping_.seal();
    const std::uint64_t lost_names = sealed.lost_names;
    std::vector<HostRun> released;
    Result<void> written;
    try {
        released = sealed.released;
        written = write_sealed(sealed);
    } catch (...) {
        mapping_.unseal(std::move(sealed), false);
        throw;
    }
    mapping_.unseal(std::move(sealed), written.has_value());
    TRY(std::move(written));
    store_.let_grow(lost_names);
    if (released.empty())
        return {};

    // W3: the names are durably gone, and then the readers.
    data_.drain();
    for (const HostRun &run : released)
        give_back_released(run);
    return {};
}

// The mapping releases no metadata. If it does by mistake, or an L2 table was
// shared and its refcount too low, the last name stays: at worst it leaks.
void Image::give_back_released(HostRun run)
{
    if (!metadata_.overlaps(run))
        return give_back(run);
    for (HostCluster cluster = run.first; cluster < run.end(); ++cluster) {
        const HostRun one{cluster, 1};
        if (metadata_.overlaps(one) && !allocator_.last_references(one).empty())
            log_warning("the cluster at {:#x} is not given back: there is metadata",
                        geometry_.offset_of(cluster).value);
        else
            give_back(one);
    }
}

// W3: what nobody else names is punched out of the file before anybody can take
// it again.
void Image::give_back(HostRun run)
{
    for (const HostRun &last : allocator_.last_references(run)) {
        const HostOffset offset = geometry_.offset_of(last.first);
        const std::uint64_t end = std::min(geometry_.offset_of(last.end()).value, store_.size());
        if (offset.value >= end)  // the last sectors of a compressed cluster may be missing
            continue;
        const auto discarded = store_.discard(offset.value, end - offset.value);
        if (!discarded)
            log_debug("discard: {}", discarded.error().what);
    }
    allocator_.lower(run);
}

Result<void> Image::settle()
{
    TRY(flush());
    TRY(allocator_.settle());
    return store_.flush();
}

Result<void> Image::cut() { return store_.cut(TRY(allocator_.used_end())); }

}  // namespace qcow2
