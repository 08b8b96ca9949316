// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/guarded_store.h"

#include "core/base/arith.h"
#include "core/base/rare.h"
#include "core/format/limits.h"

namespace qcow2 {

Error GuardedStore::error_state()
{
    Locked lock(mutex_);
    return Error(Errc::io, "nothing is written any more: {}", first_cause_->what);
}

Result<void> GuardedStore::state()
{
    return failed_ ? Result<void>(error_state()) : Result<void>();
}

std::optional<Error> GuardedStore::first_cause()
{
    Locked lock(mutex_);
    return first_cause_;
}

void GuardedStore::fail(Error cause)
{
    RARE("nothing is written any more (W5)");
    Locked lock(mutex_);
    if (!first_cause_)
        first_cause_ = std::move(cause);
    failed_ = true;  // W5
}

Result<void> GuardedStore::after_flush(Result<void> result)
{
    if (!result)
        fail(Error(result.error()).in("a flush failed"));
    return result;
}

// Of operations that flush among other things. Their other failures are not
// final: who asked may try again.
Result<void> GuardedStore::unless_lost(Result<void> result)
{
    if (result || result.error().code != Errc::lost)
        return result;
    result.error().code = Errc::io;
    return after_flush(std::move(result));
}

Result<void> GuardedStore::before_change()
{
    TRY(state());
    return opened_ ? Result<void>() : flush().in("flush before the first write");  // O1
}

// Only the cluster in which the file ends: what lies behind it is a finding.
Result<void> GuardedStore::pad_last_cluster(std::uint64_t offset, std::uint64_t length)
{
    const std::uint64_t size = below_.size();
    if (offset + length <= size || align_down(offset, cluster_size_) >= size)
        return {};
    return grow_below(align_up(size, cluster_size_)).in("padding the last cluster of the file");
}

Result<void> GuardedStore::grow_below(std::uint64_t size_min)
{
    if (size_min > below_.size() && growth_is_held())
        return Error(Errc::io, "the file is not enlarged before the names that lead behind its end "
                               "are put out of reach");
    if (size_min <= below_.size() || below_.size() % limits::sector == 0)
        return unless_lost(below_.grow(size_min));
    Locked lock(old_end_mutex_);
    const std::uint64_t end = below_.size();
    if (end % limits::sector != 0) {  // else another was faster
        TRY(leave_old_end());
        old_end_ = end;  // nobody sees the new end before
    }
    return unless_lost(below_.grow(size_min));
}

// W8. The caller has seen that the file goes further.
Result<void> GuardedStore::before_crossing(std::uint64_t offset, std::uint64_t length)
{
    const std::uint64_t end = old_end_;
    if (end == 0 || offset >= end || offset + length <= end)
        return {};
    Locked lock(old_end_mutex_);  // and the growth of the file is done
    return leave_old_end();
}

Result<void> GuardedStore::leave_old_end()
{
    if (old_end_ != 0) {
        RARE("growth is made durable before a write across the old end of the file (W8)");
        TRY(flush().in("flush before a write across the old end of the file"));
    }
    old_end_ = 0;
    return {};
}

Result<void> GuardedStore::read(std::uint64_t offset, MutableBytes bytes)
{
    return below_.read(offset, bytes);
}

Result<void> GuardedStore::write(std::uint64_t offset, Bytes bytes)
{
    TRY(before_change());
    TRY(pad_last_cluster(offset, bytes.size()));
    TRY(before_crossing(offset, bytes.size()));
    return below_.write(offset, bytes);
}

Result<void> GuardedStore::zero(std::uint64_t offset, std::uint64_t length, bool may_unmap)
{
    TRY(before_change());
    TRY(pad_last_cluster(offset, length));
    return below_.zero(offset, length, may_unmap);
}

Result<void> GuardedStore::discard(std::uint64_t offset, std::uint64_t length)
{
    TRY(before_change());
    return below_.discard(offset, length);
}

Result<void> GuardedStore::flush()
{
    return flushes_.run([this]() -> Result<void> {
        TRY(state());
        TRY(after_flush(below_.flush()));
        opened_ = true;
        return {};
    });
}

Result<void> GuardedStore::write_durable(std::uint64_t offset, Bytes bytes)
{
    const Part part{offset, bytes};
    return write_all_durable({&part, 1});
}

Result<void> GuardedStore::write_all_durable(std::span<const Part> parts)
{
    if (!below_.durable_alone()) {
        for (const Part &part : parts)
            TRY(write(part.offset, part.bytes));
        return flush();
    }
    TRY(before_change());
    for (const Part &part : parts) {
        TRY(pad_last_cluster(part.offset, part.bytes.size()));
        TRY(before_crossing(part.offset, part.bytes.size()));
    }
    TRY(unless_lost(below_.write_all_durable(parts)));
    return state();  // a flush may have failed meanwhile
}

Result<void> GuardedStore::grow(std::uint64_t size_min)
{
    TRY(before_change());
    return grow_below(size_min);
}

Result<void> GuardedStore::cut(std::uint64_t size)
{
    TRY(before_change());
    return below_.cut(size);
}

Result<void> GuardedStore::shorten(std::uint64_t size)
{
    TRY(before_change());
    return below_.shorten(size);
}

}  // namespace qcow2
