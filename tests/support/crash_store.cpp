// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/support/crash_store.h"

#include <algorithm>
#include <utility>

namespace qcow2::test {

namespace {

using WriteContent = PendingWrite::Content;

void apply_run(const PendingWrite &write, Range sectors, SparseBytes &bytes)
{
    const std::uint64_t offset = write.bytes.begin + sectors.begin * sector_size;
    const std::uint64_t length = sectors.length() * sector_size;
    switch (write.content) {
    case WriteContent::data:
        bytes.write(offset, sub(Bytes(*write.data), sectors.begin * sector_size, length));
        break;
    case WriteContent::zero: bytes.zero(offset, length); break;
    case WriteContent::garbage: bytes.fill_garbage(offset, length); break;
    }
}

// Calls function(Range of sectors) for each run that is alive.
template <class Function>
void for_runs(const BitVector &alive, Function function)
{
    for (std::uint64_t at = alive.next_set(0); at < alive.size();) {
        const std::uint64_t end = alive.next_clear(at);
        function(Range{at, end});
        at = alive.next_set(end);
    }
}

void apply_alive(const PendingWrite &write, SparseBytes &bytes)
{
    for_runs(write.alive, [&](Range run) { apply_run(write, run, bytes); });
}

// Each sector is there or not.
BitVector torn(const BitVector &alive, Random &random)
{
    BitVector left(alive.size());
    for_runs(alive, [&](Range run) {
        for (std::uint64_t sector = run.begin; sector < run.end; ++sector)
            if (random.coin())
                left.set(sector);
    });
    return left;
}

void cut_to(StoreImage &image, std::uint64_t size)
{
    if (size < image.size)
        image.bytes.zero(size, image.size - size);
    image.size = size;
}

}  // namespace

CrashStore::CrashStore(Life life, StoreOptions options)
    : options_(options),
      beginning_(std::move(life)),
      memory_(beginning_.cache, options),
      faults_(memory_, flush_faults_),
      top_(faults_)
{
}

CrashWalk::CrashWalk(const CrashStore &store)
    : recording_(store.recording()), options_(store.options()), life_(store.beginning())
{
}

void CrashWalk::advance_to(std::uint64_t event)
{
    INVARIANT(event >= position_ && event <= events());
    for (; position_ < event; ++position_) {
        const Recording::Event &next = recording_.events[position_];
        if (next.operation == Recording::no_operation)
            continue;
        if (next.is_return)
            finish(next.operation);
        else
            begin(next.operation);
    }
}

// The pieces of an operation: whole sectors in the middle may be a fill, the
// sectors at its ends hold bytes of others and are data.
void CrashWalk::begin(std::size_t index)
{
    const Operation &operation = recording_.operations[index];
    // One that was refused did nothing.
    if (!operation.writes() || operation.length == 0 ||
        (!operation.succeeded && operation.returned != Operation::never))
        return;
    const Range range = operation.range();
    WriteContent content = WriteContent::data;
    switch (operation.kind) {
    case Operation::Kind::zero:
        content = WriteContent::zero;
        life_.cache.bytes.zero(range.begin, range.length());
        break;
    case Operation::Kind::discard:
        if (options_.discarded == Discarded::kept)
            return;
        if (options_.discarded == Discarded::zero) {
            content = WriteContent::zero;
            life_.cache.bytes.zero(range.begin, range.length());
        } else {
            content = WriteContent::garbage;
            life_.cache.bytes.fill_garbage(range.begin, range.length());
        }
        break;
    default: life_.cache.bytes.write(range.begin, operation.data); break;
    }

    const Range all = range.touched(sector_size);
    const Range whole = range.whole(sector_size);
    if (content == WriteContent::data || whole.empty()) {
        add(index, all, WriteContent::data);
        return;
    }
    add(index, {all.begin, whole.begin}, WriteContent::data);
    add(index, whole, content);
    add(index, {whole.end, all.end}, WriteContent::data);
}

void CrashWalk::add(std::size_t index, Range sectors, WriteContent content)
{
    if (sectors.empty())
        return;
    PendingWrite write;
    write.operation = index;
    write.bytes = {sectors.begin * sector_size, sectors.end * sector_size};
    write.content = content;
    if (content == WriteContent::data)
        write.data = std::make_shared<const Buffer>(
            life_.cache.bytes.copy(write.bytes.begin, write.bytes.length()));
    write.alive = BitVector(sectors.length(), true);
    life_.writes.push_back(std::move(write));
}

void CrashWalk::finish(std::size_t index)
{
    const Operation &operation = recording_.operations[index];
    for (PendingWrite &write : life_.writes)
        if (write.operation == index && write.returned == Operation::never)
            write.returned = operation.returned;
    switch (operation.kind) {
    case Operation::Kind::flush:
        if (operation.succeeded)
            flushed(operation.begun);
        else
            for (PendingWrite &write : life_.writes)
                write.in_doubt = true;
        break;
    case Operation::Kind::write_durable:
        if (!operation.succeeded)
            break;
        // Bytes that are durable are inside the file.
        make_sizes_durable(operation.begun);
        for (std::size_t i = 0; i < life_.writes.size(); ++i)
            if (life_.writes[i].operation == index &&
                life_.writes[i].returned == operation.returned) {
                make_durable(i);
                life_.writes.erase(life_.writes.begin() + i);
                break;
            }
        break;
    case Operation::Kind::grow:
    case Operation::Kind::cut: resized(index); break;
    default: break;
    }
}

void CrashWalk::resized(std::size_t index)
{
    const Operation &operation = recording_.operations[index];
    const std::uint64_t before = life_.cache.size;
    const std::uint64_t after = operation.size_after;
    if (after == before)
        return;
    cut_to(life_.cache, after);
    life_.sizes.push_back({after, operation.returned});
    if (after > before)
        return;
    // What was behind the new end does not come back with a later growth.
    const Range gone = Range{after, before}.touched(sector_size);
    const Range first =
        Range{after, before}.begin % sector_size == 0 ? Range{} : Range{gone.begin, gone.begin + 1};
    add(index, first, WriteContent::data);
    add(index, {first.empty() ? gone.begin : first.end, gone.end}, WriteContent::zero);
    for (PendingWrite &write : life_.writes)
        if (write.operation == index)
            write.returned = operation.returned;
}

// The disk has it now, and with it the bytes of older writes in its sectors.
void CrashWalk::make_durable(std::size_t pending_index)
{
    const PendingWrite &write = life_.writes[pending_index];
    apply_alive(write, life_.durable.bytes);
    for (std::size_t i = 0; i < pending_index; ++i) {
        PendingWrite &older = life_.writes[i];
        const Range both = intersection(older.bytes, write.bytes);
        if (!both.empty())
            older.alive.clear(Range{(both.begin - older.bytes.begin) / sector_size,
                                    (both.end - older.bytes.begin) / sector_size});
    }
}

void CrashWalk::make_sizes_durable(std::uint64_t begun)
{
    while (!life_.sizes.empty() && life_.sizes.front().returned < begun) {
        cut_to(life_.durable, life_.sizes.front().size);
        life_.sizes.erase(life_.sizes.begin());
    }
}

void CrashWalk::flushed(std::uint64_t begun)
{
    make_sizes_durable(begun);
    const auto is_durable = [begun](const PendingWrite &write) {
        return write.returned < begun && !write.in_doubt;
    };
    for (std::size_t i = 0; i < life_.writes.size(); ++i)
        if (is_durable(life_.writes[i]))
            make_durable(i);
    std::erase_if(life_.writes, [&](const PendingWrite &write) {
        return is_durable(write) || write.alive.none();
    });
}

std::uint64_t CrashWalk::pending() const
{
    std::uint64_t operations = 0;
    std::uint64_t last = ~std::uint64_t(0);
    for (const PendingWrite &write : life_.writes)
        if (write.operation != last) {
            last = write.operation;
            ++operations;
        }
    return operations;
}

bool CrashWalk::in_doubt() const
{
    return std::any_of(life_.writes.begin(), life_.writes.end(),
                       [](const PendingWrite &write) { return write.in_doubt; });
}

// For each pending piece, whether its operation is there.
std::vector<bool> CrashWalk::drawn(Random &random, CrashMode mode) const
{
    // Pieces of one operation stand side by side; number the operations.
    std::vector<std::uint64_t> number;
    std::uint64_t count = 0;
    for (std::size_t i = 0; i < life_.writes.size(); ++i) {
        if (i != 0 && life_.writes[i].operation != life_.writes[i - 1].operation)
            ++count;
        number.push_back(count);
    }
    count += !life_.writes.empty();

    const std::uint64_t chosen = count == 0 ? 0 : random.below(count);
    const std::uint64_t odds = random.between(2, 5);
    const bool mostly = random.coin();
    std::vector<bool> there_by_operation(count);
    for (std::uint64_t i = 0; i < count; ++i)
        switch (mode) {
        case CrashMode::none: there_by_operation[i] = false; break;
        case CrashMode::all: there_by_operation[i] = true; break;
        case CrashMode::prefix: there_by_operation[i] = i <= chosen; break;
        case CrashMode::one: there_by_operation[i] = i == chosen; break;
        case CrashMode::all_but_one: there_by_operation[i] = i != chosen; break;
        case CrashMode::subset: there_by_operation[i] = random.one_in(odds) != mostly; break;
        case CrashMode::torn: there_by_operation[i] = true; break;
        }
    std::vector<bool> there;
    for (const std::uint64_t n : number)
        there.push_back(there_by_operation[n]);
    return there;
}

std::uint64_t CrashWalk::drawn_size(Random &random, CrashMode mode) const
{
    if (life_.sizes.empty() || mode == CrashMode::none)
        return life_.durable.size;
    // A lost growth hides the rest of the crash: not too often.
    if (mode == CrashMode::all || !random.one_in(6))
        return life_.sizes.back().size;
    const std::uint64_t kept = random.below(life_.sizes.size() + 1);
    return kept == 0 ? life_.durable.size : life_.sizes[kept - 1].size;
}

StoreImage CrashWalk::power_cut(Random &random, CrashMode mode) const
{
    StoreImage image = life_.durable;
    const std::uint64_t size = drawn_size(random, mode);
    const std::vector<bool> there = drawn(random, mode);
    std::size_t last = 0;
    for (std::size_t i = 0; i < there.size(); ++i)
        if (there[i])
            last = i;
    for (std::size_t i = 0; i < life_.writes.size(); ++i) {
        const PendingWrite &write = life_.writes[i];
        if (!there[i])
            continue;
        if (mode == CrashMode::torn || (mode == CrashMode::prefix && i == last))
            for_runs(torn(write.alive, random),
                     [&](Range run) { apply_run(write, run, image.bytes); });
        else
            apply_alive(write, image.bytes);
    }
    // Writes reach to the end of the last sector, files need not.
    image.size = ~std::uint64_t(0);
    cut_to(image, size);
    return image;
}

StoreImage CrashWalk::power_cut(Random &random) const
{
    return power_cut(random, static_cast<CrashMode>(random.below(crash_modes)));
}

Life CrashWalk::kept(Random &random) const
{
    Life life = life_;
    life.cache = life.durable;
    if (!life.sizes.empty())
        life.cache.size = life.sizes.back().size;
    for (PendingWrite &write : life.writes) {
        if (write.returned == Operation::never && random.coin())
            write.alive = torn(write.alive, random);
        write.returned = 0;
        apply_alive(write, life.cache.bytes);
    }
    for (PendingSize &size : life.sizes)
        size.returned = 0;
    const std::uint64_t size = life.cache.size;
    life.cache.size = ~std::uint64_t(0);
    cut_to(life.cache, size);
    std::erase_if(life.writes, [](const PendingWrite &write) { return write.alive.none(); });
    // The numbers of the next life's operations begin at 0.
    for (PendingWrite &write : life.writes)
        write.operation += std::uint64_t(1) << 40;
    return life;
}

}  // namespace qcow2::test
