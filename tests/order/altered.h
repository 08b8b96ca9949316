// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A disk over an image with bitmaps in which something was changed by hand.

#pragma once

#include "core/structure/operations.h"

#include "core/bitmap/bitmap_data.h"
#include "core/check/check.h"
#include "tests/order/order.h"

namespace order_bitmap_operations {

using namespace qcow2;
using namespace qcow2::test;

inline ImageSpec with_bitmaps(std::vector<BitmapSpec> bitmaps)
{
    ImageSpec spec = order_spec();
    spec.bitmaps = std::move(bitmaps);
    return spec;
}

inline BitmapSpec named(const std::string &name, bool enabled = true, bool in_use = false)
{
    return {.name = name,
            .granularity_bits = 12,
            .enabled = enabled,
            .in_use = in_use,
            .set = {{3, 5}},
            .extra_data = {}};
}

// A disk over an image in which something was changed by hand.
class Altered {
public:
    explicit Altered(const ImageSpec &spec) : built_(build_image(spec)), memory_(built_.image) {}

    const BuiltImage &built() const { return built_; }
    MemoryStore &memory() { return memory_; }
    HostOffset directory() const
    {
        const Extension *extension = built_.area.find(ExtensionType::bitmaps);
        return must(decode_bitmaps_extension(extension->data, built_.area.header.geometry()))
            .bitmap_directory_offset;
    }
    void poke(std::uint64_t offset, Buffer bytes) { must(memory_.write(offset, bytes)); }
    void in_entry(std::size_t bitmap, std::uint64_t at, Buffer bytes)
    {
        poke(directory().value + built_.bitmaps[bitmap].position + at, std::move(bytes));
    }
    Disk &open(DiskOptions options = {})
    {
        disk_ = must(Disk::open(memory_, options));
        return *disk_;
    }
    Result<void> run(const Disk::Restructuring &operation) { return open().restructure(operation); }
    std::vector<StoredBitmap> bitmaps()
    {
        disk_.reset();
        const StoreImage image = memory_.image();
        ImageView view(image);
        return must(must(ImageReader::open(view)).bitmaps());
    }
    CheckReport checked()
    {
        const StoreImage image = memory_.image();
        ImageView view(image);
        return must(check(view));
    }

private:
    const BuiltImage built_;
    MemoryStore memory_;
    std::unique_ptr<Disk> disk_;
};

template <class T>
void refused(const Result<T> &done, Errc code, const std::string &words_of_it)
{
    BOOST_REQUIRE(!done);
    BOOST_TEST((done.error().code == code));
    BOOST_TEST(done.error().what.find(words_of_it) != std::string::npos, done.error().what);
}

inline constexpr std::uint64_t autoclear_byte = 95;

}  // namespace order_bitmap_operations
