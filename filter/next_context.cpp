// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/next_context.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "core/base/log.h"

namespace qcow2 {

namespace {

// No request is larger. nbdkit 1.32 zeroes the first 64 MiB of a larger one
// again and again where it has to emulate, and the nbd plugin's remote may cut
// the line.
constexpr std::uint64_t request_bytes_max = 32 << 20;

// We read, change and write back in blocks up to this size.
constexpr std::uint64_t block_bytes_max = 512;

// The variable for an errno must be 0 before the call: nbdkit asks a plugin for
// it only then.
int errno_of(int cause) { return cause != 0 ? cause : EIO; }

Error failed(const char *what, const Range &range, int cause)
{
    const bool full = cause == ENOSPC || cause == EDQUOT || cause == EFBIG;
    return Error(full ? Errc::no_space : Errc::io, "{} {} bytes at {:#x}: {}", what, range.length(),
                 range.begin, std::strerror(errno_of(cause)));
}

}  // namespace

template <class Call>
auto NextContext::call(Call call)
{
    std::unique_lock<std::mutex> turn(calls_.one_at_a_time, std::defer_lock);
    if (calls_.serialised)
        turn.lock();
    return call();
}

// --- Life.

Result<std::unique_ptr<NextContext>> NextContext::open(nbdkit_backend *backend, bool read_only,
                                                       NextCalls &calls)
{
    nbdkit_next *next;
    {
        std::unique_lock<std::mutex> turn(calls.one_at_a_time, std::defer_lock);
        if (calls.serialised)
            turn.lock();
        // Shared: it lives longer than the connection that happens to be first.
        next = nbdkit_next_context_open(backend, read_only, "", 1);
    }
    if (!next)
        return Error(Errc::io, "the layer below cannot be opened");
    std::unique_ptr<NextContext> context(new NextContext(next, calls));
    TRY(context->prepare());
    TRY(context->ask());
    return context;
}

NextContext::~NextContext()
{
    const int finalized = call([this] {
        const int done = prepared_ ? next_->finalize(next_) : 0;
        nbdkit_next_context_close(next_);
        return done;
    });
    if (finalized == -1)
        log_debug("the layer below reports an error when it is closed");
}

Result<void> NextContext::prepare()
{
    if (call([this] { return next_->prepare(next_); }) == -1)
        return Error(Errc::io, "the layer below cannot be opened");
    prepared_ = true;
    return {};
}

// All of it is asked, even if we do not use it: nbdkit lets data calls pass only
// after the questions that belong to them.
Result<void> NextContext::ask()
{
    const auto answer = [this](int (*question)(nbdkit_next *)) {
        return call([&] { return question(next_); });
    };
    const std::int64_t size = call([this] { return next_->get_size(next_); });
    const int can_write = answer(next_->can_write);
    const int can_flush = answer(next_->can_flush);
    const int can_trim = answer(next_->can_trim);
    const int can_zero = answer(next_->can_zero);
    const int can_multi_conn = answer(next_->can_multi_conn);
    const int rotational = answer(next_->is_rotational);
    const int can_fast_zero = answer(next_->can_fast_zero);
    const int can_extents = answer(next_->can_extents);
    const int can_fua = answer(next_->can_fua);
    const int can_cache = answer(next_->can_cache);
    for (const int each : {can_write, can_flush, can_trim, can_zero, can_multi_conn, rotational,
                           can_fast_zero, can_extents, can_fua, can_cache}) {
        if (each == -1)
            return Error(Errc::io, "the layer below does not say what it can do");
    }
    if (size < 0)
        return Error(Errc::io, "the layer below does not say its size");
    size_ = static_cast<std::uint64_t>(size);
    can_write_ = can_write;
    can_flush_ = can_flush;
    can_trim_ = can_trim;
    can_zero_ = can_zero != NBDKIT_ZERO_NONE;
    can_multi_conn_ = can_multi_conn;
    rotational_ = rotational;
    can_extents_ = can_extents;
    return ask_block_size();
}

Result<void> NextContext::ask_block_size()
{
    std::uint32_t minimum = 0, preferred = 0, maximum = 0;
    if (call([&] { return next_->block_size(next_, &minimum, &preferred, &maximum); }) == -1)
        return Error(Errc::io, "the layer below does not say its block size");
    if (minimum == 0) {  // it has no opinion
        minimum = 1;
        maximum = UINT32_MAX;
    }
    if (minimum > block_bytes_max)
        return Error(
            Errc::unsupported,
            "the layer below takes no requests of less than {} bytes; put nbdkit's blocksize "
            "filter between: --filter=qcow2bitmap --filter=blocksize",
            minimum);
    limits_.minimum = minimum;
    limits_.maximum = align_down(std::min<std::uint64_t>(maximum, request_bytes_max), minimum);
    return {};
}

// --- One call each.

Result<void> NextContext::call_read(const Range &io, std::uint8_t *bytes)
{
    int cause = 0;
    const auto count = static_cast<std::uint32_t>(io.length());
    if (call([&] { return next_->pread(next_, bytes, count, io.begin, 0, &cause); }) == -1)
        return failed("reading", io, cause);
    return {};
}

Result<void> NextContext::call_write(const Range &io, const std::uint8_t *bytes)
{
    int cause = 0;
    const auto count = static_cast<std::uint32_t>(io.length());
    if (call([&] { return next_->pwrite(next_, bytes, count, io.begin, 0, &cause); }) == -1)
        return failed("writing", io, cause);
    return {};
}

Result<void> NextContext::call_zero(const Range &io, bool may_unmap)
{
    int cause = 0;
    const auto count = static_cast<std::uint32_t>(io.length());
    const std::uint32_t flags = may_unmap ? NBDKIT_FLAG_MAY_TRIM : 0;
    if (call([&] { return next_->zero(next_, count, io.begin, flags, &cause); }) == -1)
        return failed("zeroing", io, cause);
    return {};
}

Result<void> NextContext::call_trim(const Range &io)
{
    int cause = 0;
    const auto count = static_cast<std::uint32_t>(io.length());
    if (call([&] { return next_->trim(next_, count, io.begin, 0, &cause); }) == -1)
        return failed("trimming", io, cause);
    return {};
}

Result<void> NextContext::flush()
{
    int cause = 0;
    if (call([&] { return next_->flush(next_, 0, &cause); }) == -1)
        return Error(Errc::io, "flushing: {}", std::strerror(errno_of(cause)));
    return {};
}

// --- Requests of any size and place.

// A hole is believed only where it reads as zeros, too. Who cannot tell is no error:
// the bytes can be read.
ByteStore::Stretch NextContext::stretch(std::uint64_t offset, std::uint64_t length_max)
{
    const ByteStore::Stretch unknown{length_max, false};
    if (!can_extents_)
        return unknown;
    const std::uint64_t begin = align_down(offset, limits_.minimum);
    const std::uint64_t end = std::min(size_, align_up(offset + length_max, limits_.minimum));
    const std::unique_ptr<nbdkit_extents, decltype(&nbdkit_extents_free)> extents(
        nbdkit_extents_new(begin, size_), nbdkit_extents_free);
    const auto count =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(end - begin, limits_.maximum));
    int cause = 0;
    const int asked = extents ? call([&] {
        return next_->extents(next_, count, begin, NBDKIT_FLAG_REQ_ONE, extents.get(), &cause);
    })
                              : -1;
    if (asked == -1 || nbdkit_extents_count(extents.get()) == 0)
        return unknown;
    constexpr std::uint32_t hole = NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO;
    const nbdkit_extent first = nbdkit_get_extent(extents.get(), 0);
    if (first.offset + first.length <= offset)
        return unknown;
    return {std::min(length_max, first.offset + first.length - offset),
            (first.type & hole) == hole};
}

Result<void> NextContext::read(std::uint64_t offset, MutableBytes bytes)
{
    Range rest = Range::of(offset, bytes.size());
    std::uint8_t *to = bytes.data();
    while (!rest.empty()) {
        const Piece piece = first_piece(rest, limits_, size_);
        if (piece.whole()) {
            TRY(call_read(piece.io, to));
        } else {
            std::array<std::uint8_t, block_bytes_max> block;
            TRY(call_read(piece.io, block.data()));
            std::memcpy(to, block.data() + (piece.data.begin - piece.io.begin),
                        piece.data.length());
        }
        to += piece.data.length();
        rest.begin = piece.data.end;
    }
    return {};
}

template <class Change>
Result<void> NextContext::change_whole(Change change)
{
    if (limits_.minimum == 1)
        return change();
    const Passage passage(calls_.whole_blocks);
    return change();
}

Result<void> NextContext::write_part(const Piece &piece, const std::uint8_t *bytes)
{
    const Exclusive alone(calls_.whole_blocks);
    std::array<std::uint8_t, block_bytes_max> block;
    TRY(call_read(piece.io, block.data()));
    std::memcpy(block.data() + (piece.data.begin - piece.io.begin), bytes, piece.data.length());
    return call_write(piece.io, block.data());
}

Result<void> NextContext::write(std::uint64_t offset, Bytes bytes)
{
    Range rest = Range::of(offset, bytes.size());
    const std::uint8_t *from = bytes.data();
    while (!rest.empty()) {
        const Piece piece = first_piece(rest, limits_, size_);
        TRY(piece.whole() ? change_whole([&] { return call_write(piece.io, from); })
                          : write_part(piece, from));
        from += piece.data.length();
        rest.begin = piece.data.end;
    }
    return {};
}

Result<void> NextContext::write_zeros(const Range &range)
{
    for (Range rest = range; !rest.empty();) {
        const std::uint64_t length = std::min<std::uint64_t>(rest.length(), zeros.size());
        TRY(write(rest.begin, Bytes(zeros).first(length)));
        rest.begin += length;
    }
    return {};
}

Result<void> NextContext::zero(const Range &range, bool may_unmap)
{
    for (Range rest = range; !rest.empty();) {
        const Piece piece = first_piece(rest, limits_, size_);
        if (piece.whole() && can_zero_)
            TRY(change_whole([&] { return call_zero(piece.io, may_unmap); }));
        else
            TRY(write_zeros(piece.data));
        rest.begin = piece.data.end;
    }
    return {};
}

Result<void> NextContext::discard(const Range &range)
{
    if (!can_trim_)
        return {};
    for (Range rest = range; !rest.empty();) {
        const Piece piece = first_piece(rest, limits_, size_);
        if (piece.whole())
            TRY(change_whole([&] { return call_trim(piece.io); }));
        rest.begin = piece.data.end;
    }
    return {};
}

}  // namespace qcow2
