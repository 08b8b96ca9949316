// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/growth.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>

#include "core/base/arith.h"
#include "core/base/bytes.h"
#include "core/base/log.h"
#include "filter/local_file.h"
#include "filter/next_context.h"

namespace qcow2 {

namespace {

// The largest cluster: a length that is a multiple of it is one of all others.
constexpr std::uint64_t step_bytes_min = 2 << 20;
constexpr std::uint64_t step_bytes_max = 1 << 30;
// Where space is scarce. More than the proof needs, and than a block of the
// file system, so that the random bytes never share one with old data.
constexpr std::uint64_t step_unit = 64 << 10;

constexpr std::size_t proof_bytes = 512;
using ProofBlock = std::array<std::uint8_t, proof_bytes>;

// "Not proven" is the code of the failures after which we never try again.
Error not_proven(const std::string &why) { return Error(Errc::unsupported, why); }

// A failure on the way. Trouble that may pass proves nothing and disproves
// nothing.
Error as_unproven(Error error)
{
    if (error.code != Errc::unsupported && error.code != Errc::io)
        error.code = Errc::no_space;
    return error;
}

Result<void> same_bytes(NextContext &context, const LocalFile &file, std::uint64_t offset,
                        std::uint64_t length)
{
    Buffer through_layer(length), in_file(length);
    TRY(context.read(offset, through_layer));
    TRY(file.read(offset, in_file));
    if (through_layer != in_file)
        return not_proven(formatted("at {:#x} the layer below shows other bytes than {} has",
                                    offset, file.path()));
    return {};
}

// Samples: both ends, and in ever larger steps between. (All of it are holes of
// a proven file; what a layer makes of zeros shows anywhere.)
Result<void> reads_zero(NextContext &context, std::uint64_t from, std::uint64_t to)
{
    constexpr std::uint64_t sample = 4096;
    Buffer bytes(sample);
    for (std::uint64_t distance = 0;;) {
        const bool last = to - from - distance <= sample;
        const std::uint64_t offset =
            last ? std::max(from, to - std::min(to, sample)) : from + distance;
        const MutableBytes part = sub(MutableBytes(bytes), 0, std::min(sample, to - offset));
        TRY(context.read(offset, part));
        if (!all_zero(part))
            return not_proven(formatted("the new space does not read as zeros at {:#x}", offset));
        if (last)
            return {};
        distance = distance == 0 ? sample : distance * 2;
        if (distance >= to - from - sample)
            distance = to - from - sample;
    }
}

// False: there are none. (More than 256 bytes at once may be cut short by a signal.)
bool fill_randomly(ProofBlock &block)
{
    constexpr std::size_t at_once = 256;
    static_assert(proof_bytes % at_once == 0);
    for (std::size_t at = 0; at < proof_bytes;) {
        const ssize_t n = ::getrandom(&block[at], at_once, 0);
        if (n == -1 && errno != EINTR)
            return false;
        if (n == static_cast<ssize_t>(at_once))
            at += at_once;
    }
    return true;
}

// Puts the length back unless all went well.
class Undo {
public:
    Undo(LocalFile &file, std::uint64_t length) : file_(file), length_(length) {}
    ~Undo()
    {
        if (!wanted_)
            return;
        if (const auto done = file_.truncate(length_); !done)
            log_warning(done.error().what);
    }
    Undo(const Undo &) = delete;
    Undo &operator=(const Undo &) = delete;
    void forget() { wanted_ = false; }

private:
    LocalFile &file_;
    const std::uint64_t length_;
    bool wanted_ = true;
};

}  // namespace

std::vector<std::uint64_t> growth_steps(std::uint64_t size, std::uint64_t size_min)
{
    std::vector<std::uint64_t> lengths;
    const std::uint64_t least = align_up(std::max(size_min, size + 1), step_unit);
    for (std::uint64_t step = std::clamp(size, step_bytes_min, step_bytes_max);
         step >= step_bytes_min; step /= 2) {
        const std::uint64_t length = align_up(std::max(size_min, size + step), step_bytes_min);
        if (lengths.empty() || length < lengths.back())
            lengths.push_back(length);
    }
    if (least < lengths.back())
        lengths.push_back(least);
    return lengths;
}

// Proofs 1 to 3. size: what we take for the length of the file.
Result<void> Growth::check_file(const NextContext &context, std::uint64_t size) const
{
    if (!context.can_write())
        return not_proven("the layer below is read-only");
    if (!file_.writable())
        return not_proven(formatted("{} may not be written", file_.path()));
    const LocalFile::Held held = file_.held_by_layer();
    if (held == LocalFile::Held::unknown)
        return Error(Errc::no_space, "it cannot be found out now how the layer below holds {}",
                     file_.path());
    if (held != LocalFile::Held::for_writing)
        return not_proven(formatted("the layer below does not hold {} for writing", file_.path()));
    const std::uint64_t length = TRY(file_.length());
    if (file_.regular() && length != size)
        return not_proven(
            formatted("the layer below has {} bytes, and {} has {}", size, file_.path(), length));
    return {};
}

Result<void> Growth::check_ends(NextContext &context, std::uint64_t size) const
{
    const std::uint64_t sample = std::min<std::uint64_t>(size, 4096);
    TRY(same_bytes(context, file_, 0, sample));
    return same_bytes(context, file_, size - sample, sample);
}

Result<void> Growth::check(NextContext &context)
{
    TRY(check_file(context, context.size()));
    TRY(check_ends(context, context.size()));
    ends_compared_ = true;
    return {};
}

// Proof 4. The random bytes vanish by cutting the file, not by writing zeros:
// these would be durable at another time than the random bytes, and the space
// is to be as if nothing had ever been sent there (fresh, rule W2).
Result<void> Growth::prove(NextContext &context, std::uint64_t from, std::uint64_t to)
{
    if (context.size() != to)
        return not_proven(
            formatted("the file has {} bytes now, and the layer below {}", to, context.size()));
    if (!context.can_write())
        return not_proven("the layer below has become read-only");
    TRY(reads_zero(context, from, to));
    ProofBlock random, found;
    if (!fill_randomly(random))
        return Error(Errc::no_space, "there are no random bytes now");
    TRY(context.write(to - proof_bytes, random));
    TRY(file_.read(to - proof_bytes, found));
    if (found != random)
        return not_proven(formatted("what is written below does not arrive in {} at {:#x}",
                                    file_.path(), to - proof_bytes));
    TRY(file_.truncate(from));
    TRY(file_.truncate(to));
    return reads_zero(context, to - proof_bytes, to);
}

// The layer goes by the name, which may lead elsewhere by now, or nowhere. Nobody
// else opens or closes contexts meanwhile, so another descriptor on this file is
// the new one's.
Result<std::unique_ptr<NextContext>> Growth::open_on_file(const OpenContext &open) const
{
    std::unique_ptr<NextContext> none;
    if (open) {
        const LocalFile::Holders before = file_.holders();
        auto context = open();
        const LocalFile::Holders now = file_.holders();
        if (context && now.one_more_writes_than(before))
            return context;
        if (context && before.all_seen && now.all_seen && !may_reach_beyond() &&
            file_.still_named())
            return not_proven(
                formatted("the layer below opens another file than {}", file_.path()));
        log_debug(context ? formatted("the name leads to another file than {} did", file_.path())
                          : context.error().what);
    }
    if (!may_reach_beyond())
        return Error(Errc::no_space,
                     "the layer below cannot be opened anew, and it is not proven that it shows {}",
                     file_.path());
    return none;
}

Result<Growth::Grown> Growth::try_to_grow(std::uint64_t from, std::uint64_t to,
                                          const OpenContext &open)
{
    Undo undo(file_, from);
    TRY(file_.truncate(to));
    auto context = TRY(open_on_file(open));
    if (context)
        TRY(prove(*context, from, to));
    undo.forget();
    return Grown{std::move(context), to};
}

Result<Growth::Grown> Growth::grow(const NextContext &old, std::uint64_t size,
                                   std::uint64_t size_min, const OpenContext &open)
{
    if (!file_.regular())
        return Error(Errc::no_space, "{} ends at {:#x}", file_.path(), size);
    if (const auto checked = check_file(old, size); !checked)
        return as_unproven(checked.error());
    std::string why;
    for (const std::uint64_t length : growth_steps(size, size_min)) {
        auto grown = try_to_grow(size, length, open);
        if (grown) {
            if (added_to_ == 0)
                added_from_ = size;
            added_to_ = length;
            return grown;
        }
        why = grown.error().what;
        log_debug("growing to {:#x}: {}", length, why);
        if (grown.error().code != Errc::no_space)
            return as_unproven(std::move(grown).error());
    }
    return Error(Errc::no_space, "the file cannot grow to {} bytes: {}", size_min, why);
}

Result<Growth::Grown> Growth::follow(NextContext &old, std::uint64_t size, const OpenContext &open)
{
    const std::uint64_t length = TRY(file_.length());
    if (file_.regular() || length <= size)
        return Grown{nullptr, size};
    TRY(check_file(old, size));
    auto context = TRY(open_on_file(open));
    if (context && context->size() != length)
        context.reset();
    if (!context && !may_reach_beyond())
        return Error(Errc::no_space, "it is not proven that the layer below shows {}",
                     file_.path());
    return Grown{std::move(context), length};
}

Result<void> Growth::cut(std::uint64_t size)
{
    const std::uint64_t target = std::max(size, added_from_);
    if (target >= added_to_)
        return {};
    // Not ours any more if somebody else has changed the length.
    if (const std::uint64_t length = TRY(file_.length()); length != added_to_)
        return Error(Errc::io, "{}: the length was changed by somebody else", file_.path());
    TRY(file_.truncate(target));
    added_to_ = target;
    return {};
}

}  // namespace qcow2
