// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// NextStore: the bytes that nbdkit's next layer serves, as the one store of the
// engine. The end of the layer need not be aligned to anything: what lies past
// it reads as zeros, and cannot be written.
//
// All goes through one context, which is replaced by a new one when the file
// below has grown. Where the layer cannot be opened anew (growth.h), what lies
// behind its end is reached by our own descriptor. grow() may be called from any
// thread; one grows at a time.

#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include <nbdkit-filter.h>

#include "core/base/byte_store.h"
#include "core/base/cycles.h"
#include "core/base/gate.h"
#include "core/base/mutex.h"
#include "filter/barrier.h"
#include "filter/growth.h"
#include "filter/local_store.h"
#include "filter/next_context.h"
#include "filter/server_end.h"

namespace qcow2 {

class LocalFile;

class NextStore final : public ByteStore {
public:
    // serialised: nbdkit's thread model is less than parallel. file: what the layer
    // will probably open, if that is known.
    static Result<std::unique_ptr<NextStore>> open(nbdkit_backend *backend, bool read_only,
                                                   bool serialised,
                                                   const LocalFile *file = nullptr);
    // Closes the contexts, then cuts the file if that was asked for.
    ~NextStore();

    // Before the store is used by others, and while nobody writes. Without it,
    // or if the proof fails, the store has a fixed size. That of a block device is
    // asked anew when room ends. The file must outlive the store.
    void allow_growth(LocalFile &file);
    bool rotational() const { return rotational_; }

    std::uint64_t size() const override { return size_.load(); }
    std::uint64_t fresh_from() const override { return fresh_from_.load(); }
    Result<void> read(std::uint64_t offset, MutableBytes bytes) override;
    Stretch stretch(std::uint64_t offset, std::uint64_t length_max) override;
    Result<void> write(std::uint64_t offset, Bytes bytes) override;
    Result<void> zero(std::uint64_t offset, std::uint64_t length, bool may_unmap) override;
    Result<void> discard(std::uint64_t offset, std::uint64_t length) override;
    Result<void> flush() override;
    bool can_flush() const override { return can_flush_; }
    Result<void> write_durable(std::uint64_t offset, Bytes bytes) override;
    Result<void> write_all_durable(std::span<const Part> parts) override;
    bool durable_alone() const override { return barrier_ && can_flush_; }
    // For the log: of the calls of write_durable(), how many needed no flush.
    std::uint64_t durable_alone_count() const { return durable_alone_count_.load(); }
    Result<void> grow(std::uint64_t size_min) override;
    bool can_grow() const override { return can_grow_.load(); }
    // Instead of allow_growth(): what grow() is to say, and how there can be room all the same.
    void keep_size(std::string why)
    {
        const std::lock_guard<std::mutex> lock(why_mutex_);
        why_no_growth_ = std::move(why);
    }
    std::string why_no_growth() const
    {
        const std::lock_guard<std::mutex> lock(why_mutex_);
        return why_no_growth_;
    }
    Result<void> cut(std::uint64_t size) override;
    // Nothing is written any more, and nothing behind the size of cut() is read: the file
    // is cut now, for others may have it soon, and not when this store goes.
    void end();
    bool read_only() const override { return read_only_; }
    // What was acknowledged before may be lost, and nobody knows what (W5).
    bool flush_failed() const { return flush_failed_.load(); }

private:
    void cut_file();
    class Turn;

    NextStore(nbdkit_backend *backend, bool read_only, bool serialised)
        : backend_(backend), open_read_only_(read_only), calls_(serialised)
    {
    }
    Result<std::unique_ptr<NextContext>> open_context();
    Result<void> switch_to(std::unique_ptr<NextContext> context);
    Result<void> take_up(Growth::Grown grown, bool fresh);
    void reach_beyond(std::uint64_t length);
    // One of them for what the layer reaches, the other for what is behind.
    template <class Layer, class Beyond>
    Result<void> at_both(Range range, Layer layer, Beyond beyond);
    Result<void> write_at_both(std::uint64_t offset, Bytes bytes);
    Result<void> flush(NextContext &context);
    Result<void> flush_retired() EXCLUDES(mutex_);
    bool have_barrier(std::span<const Part> parts) const;
    Result<void> make_durable(NextContext &context, std::span<const Part> parts);
    // Only inside: else it may be closed at any moment.
    NextContext &current() const { return *current_.load(std::memory_order_acquire); }

    // Constant after open.
    nbdkit_backend *const backend_;
    const bool open_read_only_;
    bool read_only_ = true;
    bool can_flush_ = false;
    bool rotational_ = false;

    // Their own synchronisation.
    NextCalls calls_;
    Gate inside_{Rank::store};  // who uses the current context
    std::atomic<NextContext *> current_{nullptr};
    std::atomic<LocalStore *> beyond_current_{nullptr};  // or nothing is behind the layer
    std::atomic<std::uint64_t> size_{0};                 // never more than that of the current one
    std::atomic<std::uint64_t> fresh_from_{UINT64_MAX};
    std::atomic<bool> can_grow_{false};
    std::atomic<bool> flush_failed_{false};
    ServerEnd server_end_;
    // Of those who flush at once a kernel tells only one that bytes are lost:
    // one flushes at a time. The same holds for barriers, which have another
    // descriptor and are told for themselves.
    Cycles flushes_{Rank::store};
    Mutex barriers_{Rank::store};
    // A flush has succeeded that began when the store was so long: what the
    // file system knows of the space before is durable.
    std::atomic<std::uint64_t> flushed_size_{0};
    std::atomic<std::uint64_t> durable_alone_count_{0};

    Mutex closing_{Rank::store};  // held while a context is opened, or a retired one closed

    Mutex mutex_{Rank::store};
    Condition changed_;
    bool growing_ GUARDED_BY(mutex_) = false;
    // Nobody uses them any more, but with its descriptor goes what the kernel has
    // to tell one of lost bytes: they are closed after a flush.
    std::vector<std::unique_ptr<NextContext>> retired_ GUARDED_BY(mutex_);

    // Only for the one who grows, or when the store is opened or closed.
    const LocalFile *opened_ = nullptr;  // the file that the layer was seen to open
    LocalFile *file_ = nullptr;
    std::optional<Growth> growth_;
    mutable std::mutex why_mutex_;
    std::string why_no_growth_;  // under why_mutex_
    std::optional<LocalStore> beyond_;
    std::optional<Barrier> barrier_;  // constant once the store is used
    std::unique_ptr<NextContext> context_;
    std::optional<std::uint64_t> cut_to_;
};

}  // namespace qcow2
