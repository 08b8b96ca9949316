// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/support/verdict.h"

#include <algorithm>
#include <cstring>

#include "core/base/log.h"
#include "core/check/check.h"
#include "core/format/limits.h"
#include "tests/support/must.h"
#include "tests/support/pieces.h"
#include "tests/support/qemu_img.h"

namespace qcow2::test {

namespace {

std::string data_verdict(const ImageReader &reader, const ReferenceDisk &reference)
{
    if (reader.disk_size() != reference.size())
        return "the disk has another size";
    std::string fault;
    for_each_piece(reference.size(), [&](Range piece, MutableBytes found) {
        const GuestOffset at(piece.begin);
        if (!fault.empty())
            return;
        if (const auto read = reader.read(at, found); !read)
            fault = read.error().what;
        else if (fault = reference.difference(at, found); !fault.empty())
            fault = "in the file " + fault;
    });
    return fault;
}

std::string bits_difference(const BitVector &expected, const BitVector &found)
{
    for (std::uint64_t bit = 0; bit < expected.size(); ++bit)
        if (expected.test(bit) != found.test(bit))
            return "granule " + std::to_string(bit) + " is " + (found.test(bit) ? "set" : "clear");
    return "equal";
}

std::string bitmap_verdict(const StoredBitmap &bitmap, const ReferenceBitmap &reference,
                           Bitmaps bitmaps)
{
    if (bitmap.entry.granularity() != std::uint64_t(1) << reference.granularity_bits)
        return "another granularity";
    if (bitmap.entry.enabled() != reference.enabled)
        return "the flag auto has changed";
    if (bitmaps == Bitmaps::superset && bitmap.entry.in_use() && reference.enabled)
        return {};
    if (bitmap.entry.in_use() != reference.in_use)
        return bitmap.entry.in_use() ? "it is in_use" : "it is no more in_use";
    if (bitmap.bits == reference.bits)
        return {};
    if (bitmaps == Bitmaps::superset && reference.enabled && !reference.in_use) {
        BitVector both = bitmap.bits;
        both.or_with(reference.bits);
        if (both == bitmap.bits)
            return {};
    }
    return bits_difference(reference.bits, bitmap.bits);
}

std::string bitmaps_verdict(const ImageReader &reader, const ReferenceDisk &reference,
                            Bitmaps bitmaps)
{
    const auto stored = reader.bitmaps();
    if (!stored)
        return stored.error().what;
    if (stored->size() != reference.bitmaps().size())
        return std::to_string(stored->size()) + " bitmaps";
    for (const StoredBitmap &bitmap : *stored) {
        const auto expected = reference.bitmaps().find(bitmap.entry.name);
        if (expected == reference.bitmaps().end())
            return "bitmap '" + bitmap.entry.name + "' came from nowhere";
        const std::string fault = bitmap_verdict(bitmap, expected->second, bitmaps);
        if (!fault.empty())
            return "bitmap '" + bitmap.entry.name + "': " + fault;
    }
    return {};
}

// Sets the granules that differ from the beginning; expects them.
std::string coverage_verdict(const StoredBitmap &bitmap, const ReferenceBitmap &before,
                             const std::vector<std::uint64_t> &changed_sectors,
                             CrashAllowance allowed)
{
    if (bitmap.entry.in_use())
        return allowed.marked ? "" : "it is in_use";
    const std::uint64_t granularity = bitmap.entry.granularity();
    for (const std::uint64_t sector : changed_sectors)
        if (!bitmap.bits.test(sector * limits::sector / granularity))
            return "not in_use, and granule " +
                   std::to_string(sector * limits::sector / granularity) +
                   " is clear, but guest offset " + hex(sector * limits::sector) + " has changed";
    BitVector both = bitmap.bits;
    both.or_with(before.bits);
    if (both != bitmap.bits)
        return "not in_use, and bits of the beginning are gone";
    return {};
}

}  // namespace

std::string clean_stop_verdict(const StoreImage &image, const ReferenceDisk &reference,
                               Bitmaps bitmaps)
{
    ImageView view(image);
    const auto report = check(view);
    if (!report)
        return report.error().what;
    if (!report->sound())
        return report->text();
    const auto reader = ImageReader::open(view);
    if (!reader)
        return reader.error().what;
    const std::string data = data_verdict(*reader, reference);
    return data.empty() ? bitmaps_verdict(*reader, reference, bitmaps) : data;
}

std::string crash_verdict(const StoreImage &image, const ReferenceDisk &before,
                          const GuestHistory &history, std::uint64_t event, CrashAllowance allowed,
                          const DiskOptions *by_disk)
{
    ImageView view(image);
    const auto report = check(view);
    if (!report)
        return report.error().what;
    if (!report->leaks_at_worst() && !(allowed.in_place && harmless_in_place(*report)))
        return report->text();
    const auto guest = GuestView::open(view, by_disk);
    if (!guest)
        return guest.error().what;
    if (guest->size() != before.size())
        return "the disk has another size";

    std::string fault;
    std::vector<std::uint64_t> changed;
    Buffer was;
    const auto read = [&](GuestOffset offset, MutableBytes bytes) {
        if (const auto result = guest->read(offset, bytes); !result && fault.empty())
            fault = result.error().what;
        was.resize(bytes.size());
        before.bytes().read(offset.value, was);
        for (std::size_t at = 0; at < was.size(); at += limits::sector)
            if (std::memcmp(&was[at], &bytes[at],
                            std::min<std::uint64_t>(limits::sector, was.size() - at)) != 0)
                changed.push_back((offset.value + at) / limits::sector);
    };
    const std::string data = history.verdict(event, before, read);
    if (!fault.empty() || !data.empty())
        return fault + data;

    const auto stored = guest->reader().bitmaps();
    if (!stored)
        return stored.error().what;
    for (const auto &made : before.bitmaps()) {
        const std::string &name = made.first;
        if (!made.second.passing && made.second.made_at <= event &&
            std::none_of(stored->begin(), stored->end(),
                         [&](const StoredBitmap &bitmap) { return bitmap.entry.name == name; }))
            return "bitmap '" + name + "' is gone";
    }
    for (const StoredBitmap &bitmap : *stored) {
        const auto was = before.bitmaps().find(bitmap.entry.name);
        if (was == before.bitmaps().end())
            return "bitmap '" + bitmap.entry.name + "' came from nowhere";
        if (was->second.passing)
            continue;
        const std::string words = was->second.enabled && !was->second.in_use
                                      ? coverage_verdict(bitmap, was->second, changed, allowed)
                                      : bitmap_verdict(bitmap, was->second, Bitmaps::exact);
        if (!words.empty())
            return "bitmap '" + bitmap.entry.name + "': " + words;
    }
    return {};
}

bool harmless_in_place(const CheckReport &report)
{
    return std::ranges::all_of(report.findings, [](const CheckFinding &found) {
        return found.finding == Finding::refcount_too_high ||
               (found.finding == Finding::copied_flag_wrong &&
                found.place.find("bit 63 is 0, refcount 1") != std::string::npos);
    });
}

Result<GuestView> GuestView::open(ByteStore &store, const DiskOptions *by_disk)
{
    GuestView view(TRY(ImageReader::open(store)));
    if (by_disk) {
        DiskOptions options = *by_disk;
        options.read_only = true;
        view.disk_ = TRY(Disk::open(store, options));
    }
    return view;
}

Result<void> GuestView::read(GuestOffset offset, MutableBytes bytes) const
{
    std::memset(bytes.data(), 0, bytes.size());
    const std::uint64_t left = offset.value < size() ? size() - offset.value : 0;
    const MutableBytes inside = sub(bytes, 0, std::min<std::uint64_t>(bytes.size(), left));
    if (inside.empty())
        return {};
    return disk_ ? disk_->read(offset, inside) : reader_.read(offset, inside);
}

std::string qemu_verdict(const StoreImage &image, bool leaks_are_right)
{
    if (!have_qemu_img())
        return {};
    const Judgement judgement = qemu_img_check(image);
    if (judgement.status == 0 || (leaks_are_right && judgement.status == 3))
        return {};
    return "qemu-img check: " + judgement.output;
}

}  // namespace qcow2::test
