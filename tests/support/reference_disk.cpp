// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/support/reference_disk.h"

#include <algorithm>
#include <cstring>

#include "core/base/log.h"
#include "core/format/limits.h"
#include "tests/support/payload.h"

namespace qcow2::test {

namespace {

// Of whole sectors. Four sums side by side: one alone waits for itself, and this
// is what a verdict takes its time for. (And one memcpy of a sector: a sanitizer looks at each.)
std::uint64_t hash_of(Bytes bytes)
{
    std::uint64_t lanes[4] = {0x51c0f11e, 0x9ae16a3b, 0xc949c7de, 0xb492b66f};
    const auto mix = [](std::uint64_t hash, std::uint64_t word) {
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
        return hash ^ hash >> 29;
    };
    std::uint64_t words[limits::sector / sizeof(std::uint64_t)];
    for (std::size_t i = 0; i + sizeof words <= bytes.size(); i += sizeof words) {
        std::memcpy(words, bytes.data() + i, sizeof words);
        for (std::size_t word = 0; word < std::size(words); word += 4)
            for (std::size_t lane = 0; lane < 4; ++lane)
                lanes[lane] = mix(lanes[lane], words[word + lane]);
    }
    return mix(mix(mix(lanes[0], lanes[1]), lanes[2]), lanes[3]);
}

}  // namespace

void ReferenceDisk::write(GuestOffset offset, Bytes bytes)
{
    bytes_.write(offset.value, bytes);
    mark(offset, bytes.size());
}

void ReferenceDisk::zero(GuestOffset offset, std::uint64_t length)
{
    bytes_.zero(offset.value, length);
    mark(offset, length);
}

std::string ReferenceDisk::difference(GuestOffset offset, Bytes found) const
{
    if (bytes_.holds(offset.value, found))
        return {};
    return payload_difference(offset, read(offset, found.size()), found);
}

void ReferenceDisk::mark(GuestOffset offset, std::uint64_t length)
{
    INVARIANT(fits(offset.value, length, size_));
    for (auto &[name, bitmap] : bitmaps_)
        if (bitmap.enabled && !bitmap.in_use)
            bitmap.bits.set(Range::of(offset.value, length)
                                .touched(std::uint64_t(1) << bitmap.granularity_bits));
}

void ReferenceDisk::resize(std::uint64_t size)
{
    if (size < size_)
        bytes_.zero(size, size_ - size);
    for (auto &[name, bitmap] : bitmaps_) {
        BitVector bits(div_ceil(size, std::uint64_t(1) << bitmap.granularity_bits));
        for (auto bit = bitmap.bits.next_set(0); bit < std::min(bits.size(), bitmap.bits.size());
             bit = bitmap.bits.next_set(bit + 1))
            bits.set(bit);
        bitmap.bits = std::move(bits);
    }
    size_ = size;
}

void ReferenceDisk::add_bitmap(const std::string &name, std::uint32_t granularity_bits,
                               bool enabled)
{
    bitmaps_[name] = {granularity_bits, enabled, false,
                      BitVector(div_ceil(size_, std::uint64_t(1) << granularity_bits)), 0};
}

GuestHistory::Change GuestHistory::begin(std::uint64_t now, GuestOffset offset,
                                         std::uint64_t length, const ReferenceDisk &after)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    const Change change = changes_.size();
    changes_.emplace_back();
    const Range sectors = Range::of(offset.value, length).touched(limits::sector);
    Buffer content(limits::sector);
    for (std::uint64_t sector = sectors.begin; sector < sectors.end; ++sector) {
        after.bytes().read(sector * limits::sector, content);
        versions_[sector].push_back({hash_of(content), now, change});
    }
    return change;
}

void GuestHistory::end(std::uint64_t now, Change change)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    changes_[change].returned = now;
}

void GuestHistory::end_durable(std::uint64_t now, Change change)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    changes_[change] = {now, now};
}

void GuestHistory::flushed(std::uint64_t begun, std::uint64_t returned)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    for (Times &times : changes_) {
        INVARIANT(times.returned != begun);
        if (times.returned < begun)
            times.durable = std::min(times.durable, returned);
    }
}

std::string GuestHistory::verdict(std::uint64_t event, const ReferenceDisk &before,
                                  const std::function<void(GuestOffset, MutableBytes)> &read) const
{
    const std::lock_guard<std::mutex> lock(mutex_);
    // Sectors side by side are read at once, as most of what is written is.
    constexpr std::uint64_t run_max = 64;
    Buffer buffer(run_max * limits::sector);
    for (auto run = versions_.begin(); run != versions_.end();) {
        auto end = run;
        std::uint64_t sectors = 0;
        while (end != versions_.end() && sectors < run_max && end->first == run->first + sectors)
            ++end, ++sectors;
        const GuestOffset offset(run->first * limits::sector);
        const MutableBytes found = sub(MutableBytes(buffer), 0, sectors * limits::sector);
        const std::uint64_t left = offset.value < before.size() ? before.size() - offset.value : 0;
        const std::uint64_t inside = std::min<std::uint64_t>(found.size(), left);
        if (inside != 0)
            read(offset, sub(found, 0, inside));
        std::ranges::fill(sub(found, inside, found.size() - inside), std::uint8_t(0));
        for (std::uint64_t i = 0; run != end; ++run, ++i) {
            const Bytes content = sub(found, i * limits::sector, limits::sector);
            if (!may_be(content, run->first, run->second, event, before))
                return "guest offset " + hex(run->first * limits::sector) + ": found " +
                       describe_payload(sub(content, 0, 16)) + "; " + describe(run->first, event);
        }
    }
    return {};
}

bool GuestHistory::may_be(Bytes content, std::uint64_t sector, const std::vector<Version> &versions,
                          std::uint64_t event, const ReferenceDisk &before) const
{
    const std::uint64_t hash = hash_of(content);
    for (auto version = versions.rbegin(); version != versions.rend(); ++version) {
        if (version->begun > event)
            continue;
        if (version->hash == hash)
            return true;
        if (changes_[version->change].durable <= event)
            return false;
    }
    std::uint8_t original[limits::sector];
    before.bytes().read(sector * limits::sector, original);
    return std::equal(content.begin(), content.end(), original);
}

std::string GuestHistory::describe(std::uint64_t sector, std::uint64_t event) const
{
    std::string text = "changes of this sector:";
    const auto versions = versions_.find(sector);
    if (versions == versions_.end())
        return text + " none";
    for (const Version &version : versions->second) {
        if (version.begun > event)
            break;
        const Times &times = changes_[version.change];
        const auto when = [](std::uint64_t at) {
            return at == never ? "never" : std::to_string(at);
        };
        text += " #" + std::to_string(version.change) + " (begun " + when(version.begun) +
                ", returned " + when(times.returned) + ", durable " + when(times.durable) + ")";
    }
    return text + "; crash at event " + std::to_string(event);
}

void GuestHistory::crashed(std::uint64_t event, std::uint64_t now, bool durable,
                           const std::function<void(GuestOffset, MutableBytes)> &read,
                           ReferenceDisk &into)
{
    const std::lock_guard<std::mutex> lock(mutex_);
    for (Times &times : changes_) {
        if (times.returned > event)
            times.returned = never;
        if (times.durable > event)
            times.durable = never;
    }
    const Change found = changes_.size();
    changes_.push_back({now, durable ? now : never});
    Buffer content(limits::sector);
    for (auto &[sector, versions] : versions_) {
        std::erase_if(versions, [event](const Version &v) { return v.begun > event; });
        std::fill(content.begin(), content.end(), 0);
        const std::uint64_t offset = sector * limits::sector;
        const std::uint64_t inside = std::min(limits::sector, into.size() - offset);
        read(GuestOffset(offset), sub(MutableBytes(content), 0, inside));
        into.preset(GuestOffset(offset), sub(Bytes(content), 0, inside));
        versions.push_back({hash_of(content), now, found});
    }
}

}  // namespace qcow2::test
