// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/rehearsal_store.h"

#include <algorithm>

#include "core/base/arith.h"

namespace qcow2 {

namespace {
constexpr std::uint64_t page_bytes = 4096;
}  // namespace

template <class Visit>
Result<void> RehearsalStore::for_each_page(Range range, Visit visit) const
{
    while (!range.empty()) {
        const std::uint64_t number = range.begin / page_bytes;
        const Range part{range.begin, std::min(range.end, (number + 1) * page_bytes)};
        TRY(visit(number, part));
        range.begin = part.end;
    }
    return {};
}

Result<Buffer *> RehearsalStore::changed_page(std::uint64_t number)
{
    const auto there = changed_.find(number);
    if (there != changed_.end())
        return &there->second;
    Buffer page(page_bytes);
    TRY(real_.read(number * page_bytes, page));
    return &changed_.emplace(number, std::move(page)).first->second;
}

Result<void> RehearsalStore::read(std::uint64_t offset, MutableBytes bytes)
{
    TRY(real_.read(offset, bytes));
    return for_each_page(
        Range::of(offset, bytes.size()), [&](std::uint64_t number, Range part) -> Result<void> {
            if (const auto there = changed_.find(number); there != changed_.end())
                std::ranges::copy(sub(Bytes(there->second), part.begin % page_bytes, part.length()),
                                  sub(bytes, part.begin - offset, part.length()).begin());
            return {};
        });
}

Result<void> RehearsalStore::write(std::uint64_t offset, Bytes bytes)
{
    if (!fits(offset, bytes.size(), size()))
        return grow(offset + bytes.size());
    return for_each_page(
        Range::of(offset, bytes.size()), [&](std::uint64_t number, Range part) -> Result<void> {
            Buffer &page = *TRY(changed_page(number));
            std::ranges::copy(
                sub(bytes, part.begin - offset, part.length()),
                sub(MutableBytes(page), part.begin % page_bytes, part.length()).begin());
            return {};
        });
}

Result<void> RehearsalStore::zero(std::uint64_t offset, std::uint64_t length, bool)
{
    const Buffer zeros(std::min(length, page_bytes));
    for (std::uint64_t done = 0; done < length; done += zeros.size())
        TRY(write(offset + done,
                  Bytes(zeros).first(std::min<std::uint64_t>(zeros.size(), length - done))));
    return {};
}

Result<void> RehearsalStore::grow(std::uint64_t)
{
    return Error(Errc::no_space, "it ends at {:#x} and cannot grow", size());
}

}  // namespace qcow2
