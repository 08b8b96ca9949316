// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/next_store.h"

#include <algorithm>
#include <string>
#include <utility>

#include "core/base/arith.h"
#include "core/base/log.h"
#include "core/base/rare.h"
#include "filter/local_file.h"

namespace qcow2 {

namespace {

// From the first byte of the first of them to the last of the last.
Range around(std::span<const ByteStore::Part> parts)
{
    Range all{~std::uint64_t(0), 0};
    for (const ByteStore::Part &part : parts) {
        all.begin = std::min(all.begin, part.offset);
        all.end = std::max(all.end, part.offset + part.bytes.size());
    }
    return all;
}

constexpr std::size_t retired_max = 16;

Error earlier_failure() { return Error(Errc::io, "flushing: an earlier flush has failed"); }

// For operations that can fail otherwise, too.
Result<void> flushed_or_lost(Result<void> flushed)
{
    if (!flushed)
        flushed.error().code = Errc::lost;
    return flushed;
}

Result<void> checked(std::uint64_t offset, std::uint64_t length, std::uint64_t size)
{
    if (fits(offset, length, size))
        return {};
    return Error(Errc::no_space, "the layer below ends at {:#x}, before {:#x} + {}", size, offset,
                 length);
}

}  // namespace

// The turn of the one who grows. No lock is held meanwhile, for it goes through
// the layers and waits for others.
class NextStore::Turn {
public:
    explicit Turn(NextStore &store) : store_(store)
    {
        Locked lock(store_.mutex_);
        while (store_.growing_)
            store_.changed_.wait(store_.mutex_);
        store_.growing_ = true;
    }
    ~Turn()
    {
        Locked lock(store_.mutex_);
        store_.growing_ = false;
        store_.changed_.notify_all();
    }
    Turn(const Turn &) = delete;
    Turn &operator=(const Turn &) = delete;

private:
    NextStore &store_;
};

Result<std::unique_ptr<NextStore>> NextStore::open(nbdkit_backend *backend, bool read_only,
                                                   bool serialised, const LocalFile *file)
{
    std::unique_ptr<NextStore> store(new NextStore(backend, read_only, serialised));
    const LocalFile::Holders before = file ? file->holders() : LocalFile::Holders();
    store->context_ = TRY(store->open_context());
    if (file && file->holders().one_more_writes_than(before))
        store->opened_ = file;
    store->current_ = store->context_.get();
    store->size_ = store->context_->size();
    store->rotational_ = store->context_->rotational();
    store->read_only_ = read_only || !store->context_->can_write();
    store->can_flush_ = store->context_->can_flush();
    return store;
}

NextStore::~NextStore()
{
    {
        Locked lock(mutex_);
        retired_.clear();
    }
    context_.reset();
    cut_file();
}

void NextStore::end()
{
    const Turn turn(*this);
    Locked closing(closing_);
    cut_file();
}

void NextStore::cut_file()
{
    if (!growth_ || !cut_to_)
        return;
    if (const auto done = growth_->cut(*std::exchange(cut_to_, std::nullopt)); !done)
        log_warning("the file keeps its length: {}", done.error().what);
}

Result<std::unique_ptr<NextContext>> NextStore::open_context()
{
    return NextContext::open(backend_, open_read_only_, calls_);
}

void NextStore::allow_growth(LocalFile &file)
{
    file_ = &file;
    growth_.emplace(file, opened_ == &file);
    const Result<void> proven = growth_->check(*context_);
    if (!proven) {
        keep_size(proven.error().what);
        log_debug("the file below will not grow{}: {}",
                  proven.error().code == Errc::unsupported ? "" : ", as far as is known now",
                  why_no_growth());
    }
    can_grow_ = proven || proven.error().code != Errc::unsupported;
    // The same proof: the layer's bytes are those of the file. Each barrier
    // looks for itself besides.
    if (proven && file.regular() && file.writable())
        barrier_.emplace(file);
}

Result<void> NextStore::read(std::uint64_t offset, MutableBytes bytes)
{
    TRY(server_end_.check());
    const Passage passage(inside_);
    NextContext &context = current();
    const std::uint64_t size = context.size();
    const std::uint64_t there =
        offset < size ? std::min<std::uint64_t>(bytes.size(), size - offset) : 0;
    TRY(context.read(offset, bytes.first(there)));
    if (there == bytes.size())
        return {};
    if (LocalStore *const beyond = beyond_current_.load(std::memory_order_acquire))
        return beyond->read(offset + there, bytes.subspan(there));
    std::ranges::fill(bytes.subspan(there), 0);
    return {};
}

ByteStore::Stretch NextStore::stretch(std::uint64_t offset, std::uint64_t length_max)
{
    const Passage passage(inside_);
    NextContext &context = current();
    if (offset >= context.size())  // what is there is ours, and new
        return {length_max, false};
    return context.stretch(offset, std::min(length_max, context.size() - offset));
}

template <class Layer, class Beyond>
Result<void> NextStore::at_both(Range range, Layer layer, Beyond beyond)
{
    NextContext &context = current();
    LocalStore *const own = beyond_current_.load(std::memory_order_acquire);
    const std::uint64_t end = context.size();
    TRY(checked(range.begin, range.length(), own ? std::max(end, own->size()) : end));
    if (range.begin < end || range.empty())
        TRY(layer(context, Range{range.begin, std::min(range.end, end)}));
    return range.end <= end ? Result<void>()
                            : beyond(*own, Range{std::max(range.begin, end), range.end});
}

Result<void> NextStore::write_at_both(std::uint64_t offset, Bytes bytes)
{
    const auto part = [&](Range range) {
        return bytes.subspan(range.begin - offset, range.length());
    };
    return at_both(
        Range::of(offset, bytes.size()),
        [&](NextContext &layer, Range r) { return layer.write(r.begin, part(r)); },
        [&](LocalStore &own, Range r) { return own.write(r.begin, part(r)); });
}

Result<void> NextStore::write(std::uint64_t offset, Bytes bytes)
{
    TRY(server_end_.check());
    const Passage passage(inside_);
    return write_at_both(offset, bytes);
}

Result<void> NextStore::zero(std::uint64_t offset, std::uint64_t length, bool may_unmap)
{
    const Passage passage(inside_);
    return at_both(
        Range::of(offset, length),
        [&](NextContext &layer, Range r) { return layer.zero(r, may_unmap); },
        [&](LocalStore &own, Range r) { return own.zero(r.begin, r.length(), may_unmap); });
}

Result<void> NextStore::discard(std::uint64_t offset, std::uint64_t length)
{
    const Passage passage(inside_);
    return at_both(
        Range::of(offset, length), [](NextContext &layer, Range r) { return layer.discard(r); },
        [](LocalStore &own, Range r) { return own.discard(r.begin, r.length()); });
}

Result<void> NextStore::flush()
{
    const Passage passage(inside_);
    return flush(current());
}

// Once a flush has failed nobody knows what was lost, and no later one may say
// that all is well; also if it was ours, in switch_to().
Result<void> NextStore::flush(NextContext &context)
{
    if (!can_flush_ || read_only_)
        return {};
    // A request that waits for another's flush is inside, too: its writes went through a
    // context that this one stands for, or through the same.
    return flushes_.run([&]() -> Result<void> {
        if (flush_failed_.load())
            return earlier_failure();
        const std::uint64_t size = this->size();
        Result<void> done = flush_retired();
        if (done)
            done = context.flush();
        if (LocalStore *const beyond = beyond_current_.load(std::memory_order_acquire);
            done && beyond)
            done = beyond->flush();
        if (!done)
            flush_failed_ = true;
        else
            flushed_size_ = size;
        return done;
    });
}

// One that fails stays, for nothing is believed any more.
Result<void> NextStore::flush_retired()
{
    for (;;) {
        NextContext *first = nullptr;
        {
            Locked lock(mutex_);
            if (!retired_.empty())
                first = retired_.front().get();
        }
        if (!first)
            return {};
        RARE("a context that was replaced is flushed, and closed");
        TRY(first->flush());
        std::unique_ptr<NextContext> flushed;
        {
            Locked lock(mutex_);
            flushed = std::move(retired_.front());
            retired_.erase(retired_.begin());
        }
        Locked closing(closing_);
        flushed.reset();
    }
}

Result<void> NextStore::write_durable(std::uint64_t offset, Bytes bytes)
{
    const Part part{offset, bytes};
    return write_all_durable({&part, 1});
}

// Before they are written.
bool NextStore::have_barrier(std::span<const Part> parts) const
{
    return barrier_ && around(parts).length() <= Barrier::range_max &&
           around(parts).end <= flushed_size_.load() &&
           std::ranges::all_of(parts, [this](const Part &part) {
               return part.bytes.size() <= Barrier::bytes_max &&
                      barrier_->differs(part.offset, part.bytes);
           });
}

Result<void> NextStore::write_all_durable(std::span<const Part> parts)
{
    const Passage passage(inside_);
    NextContext &context = current();
    if (flush_failed_.load())
        return flushed_or_lost(earlier_failure());
    const bool alone = have_barrier(parts);
    for (const Part &part : parts)
        TRY(write_at_both(part.offset, part.bytes));
    return flushed_or_lost(alone ? make_durable(context, parts) : flush(context));
}

Result<void> NextStore::make_durable(NextContext &context, std::span<const Part> parts)
{
    for (const Part &part : parts)
        if (!barrier_->holds(part.offset, part.bytes))
            return flush(context);
    Result<bool> done = false;
    {
        Locked turn(barriers_);
        done = barrier_->make_durable(around(parts));
        if (!done)
            flush_failed_ = true;
    }
    if (!TRY(std::move(done)))
        return flush(context);
    ++durable_alone_count_;
    // A flush may have failed meanwhile.
    return flush_failed_.load() ? Result<void>(earlier_failure()) : Result<void>();
}

Result<void> NextStore::grow(std::uint64_t size_min)
{
    const Turn turn(*this);
    if (size_min <= size())
        return {};
    if (!can_grow())
        return Error(Errc::no_space, "the layer below ends at {:#x} and cannot grow{}{}", size(),
                     why_no_growth().empty() ? "" : ": ", why_no_growth());
    // What is reached by our own descriptor once is so to the end.
    Growth::OpenContext open;
    if (!beyond_)
        open = [this] { return open_context(); };
    Result<Growth::Grown> grown = Growth::Grown();
    {
        Locked closing(closing_);
        grown = file_->regular() ? growth_->grow(*context_, size(), size_min, open)
                                 : growth_->follow(*context_, size(), open);
    }
    if (grown && grown->length > size())
        TRY(take_up(std::move(*grown), file_->regular()));
    if (size_min <= size())
        return {};
    if (grown)
        return Error(Errc::no_space, "{} ends at {:#x}", file_->path(), size());
    if (grown.error().code != Errc::unsupported)
        return std::move(grown).error();
    log_warning("the file will not grow from here on: {}", grown.error().what);
    can_grow_ = false;
    keep_size(grown.error().what);
    return Error(Errc::no_space, why_no_growth());
}

// fresh: what was added reads as zeros.
Result<void> NextStore::take_up(Growth::Grown grown, bool fresh)
{
    if (fresh)
        fresh_from_ = std::min<std::uint64_t>(fresh_from_.load(), size());
    log_debug("{} has {} bytes now{}", file_->path(), grown.length,
              grown.context ? "" : "; what is new is reached by our own descriptor");
    if (grown.context)
        return switch_to(std::move(grown.context));
    reach_beyond(grown.length);
    return {};
}

void NextStore::reach_beyond(std::uint64_t length)
{
    if (beyond_)
        beyond_->follow(length);
    else
        beyond_.emplace(*file_, length);
    beyond_current_.store(&*beyond_, std::memory_order_release);
    size_ = length;
}

Result<void> NextStore::switch_to(std::unique_ptr<NextContext> context)
{
    if (!context_->can_multi_conn()) {
        // A flush through the new one would not cover what went through the old.
        const Exclusive alone(inside_);
        Result<void> flushed = flush(*context_);
        current_ = context.get();
        size_ = context->size();
        context_ = std::move(context);
        return flushed_or_lost(std::move(flushed));
    }
    {
        Locked lock(mutex_);
        retired_.reserve(retired_.size() + 1);
    }
    current_ = context.get();
    inside_.drain();
    size_ = context->size();
    bool many;
    {
        Locked lock(mutex_);
        retired_.push_back(std::exchange(context_, std::move(context)));
        if (!can_flush_)
            retired_.clear();  // nobody will ask it anything
        many = retired_.size() > retired_max;
    }
    // A file that grows for days must not use up the descriptors.
    return many ? flushed_or_lost(flush()) : Result<void>();
}

Result<void> NextStore::cut(std::uint64_t size)
{
    // nbdkit believes in the size of an open context: later.
    cut_to_ = size;
    return {};
}

}  // namespace qcow2
