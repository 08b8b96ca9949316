// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The bytes of a qcow2 file that nobody has stored: other readers take them for what they
// are to be.

#include "core/backup/qcow2_file.h"

#include <algorithm>
#include <deque>
#include <set>

#include "core/base/bit_vector.h"
#include "core/base/read_only_store.h"
#include "core/check/check.h"
#include "core/format/bitmap_table.h"
#include "core/format/limits.h"
#include "tests/support/image_reader.h"
#include "tests/support/must.h"
#include "tests/support/payload.h"
#include "tests/support/random.h"
#include "tests/support/verdict.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(qcow2_file)

namespace {

constexpr std::uint64_t cs = Qcow2File::cluster_size;

BackupBitmap backup_bitmap(std::string name, std::uint32_t granularity_bits, const BitVector &bits)
{
    return {std::move(name), granularity_bits, [&bits](std::uint64_t bit, bool set) {
                return set ? bits.next_set(bit) : bits.next_clear(bit);
            }};
}

// A small disk in memory, of sectors that are data or zeros.
class SmallSource final : public BackupSource {
public:
    explicit SmallSource(Random &random, std::uint64_t size)
        : random_(random), content_(size), data_(div_ceil(size, 512))
    {
        for (std::uint64_t n = random.below(12); n > 0 && size != 0; --n) {
            Range range = random.range(size, 600000, cs);
            range = {align_down(range.begin, 512), align_up(range.end, 512)};
            data_.set({range.begin / 512, range.end / 512});
            const Buffer bytes = payload(GuestOffset(range.begin), range.length(), 1);
            std::ranges::copy(bytes, content_.begin() + std::ptrdiff_t(range.begin));
        }
    }

    void add_bitmap(std::uint32_t granularity_bits)
    {
        BitVector &bits =
            bits_.emplace_back(div_ceil(size(), std::uint64_t(1) << granularity_bits));
        for (std::uint64_t n = random_.below(6); n > 0; --n) {
            const Range range = random_.range(bits.size(), bits.size(), 8);
            bits.set(range);
        }
        bitmaps_.clear();
        granularities_.push_back(granularity_bits);
        for (std::size_t i = 0; i < bits_.size(); ++i)
            bitmaps_.push_back(backup_bitmap(i == 0 ? "nightly" : "b" + std::to_string(i),
                                             granularities_[i], bits_[i]));
    }

    const Buffer &content() const { return content_; }
    const BitVector &bits(std::size_t bitmap) const { return bits_[bitmap]; }
    const std::set<std::uint64_t> &clusters_read() const { return clusters_read_; }

    // Whether a cluster of 64K has a bit.
    bool is_dirty(std::uint64_t cluster, std::size_t bitmap) const
    {
        const std::uint64_t granularity = std::uint64_t(1) << granularities_[bitmap];
        const Range bytes{cluster * cs, std::min((cluster + 1) * cs, size())};
        return !bits_[bitmap].none(bytes.touched(granularity));
    }
    bool has_data(std::uint64_t cluster) const
    {
        return !data_.none(Range{cluster * cs, std::min((cluster + 1) * cs, size())}.touched(512));
    }

    std::uint64_t size() const override { return content_.size(); }
    Result<void> read(GuestOffset offset, MutableBytes bytes) override
    {
        BOOST_REQUIRE(fits(offset.value, bytes.size(), size()) && !bytes.empty());
        for (std::uint64_t c = offset.value / cs; c * cs < offset.value + bytes.size(); ++c)
            clusters_read_.insert(c);
        std::copy_n(content_.begin() + std::ptrdiff_t(offset.value), bytes.size(), bytes.begin());
        return {};
    }
    // Now and then less than was asked for, and neighbours of one kind as two.
    Result<std::vector<Extent>> status(std::uint64_t offset, std::uint64_t length) override
    {
        BOOST_REQUIRE(fits(offset, length, size()) && length != 0);
        std::vector<Extent> extents;
        while (length != 0 && (extents.empty() || !random_.one_in(5))) {
            const std::uint64_t sector = offset / 512;
            const bool data = data_.test(sector);
            const std::uint64_t end =
                std::min((data ? data_.next_clear(sector) : data_.next_set(sector)) * 512, size());
            const std::uint64_t here = random_.one_in(4)
                                           ? 1 + random_.below(std::min(length, end - offset))
                                           : std::min(length, end - offset);
            extents.push_back({here, !data, !data});
            offset += here;
            length -= here;
        }
        return extents;
    }
    const std::vector<BackupBitmap> &bitmaps() const override { return bitmaps_; }

private:
    Random &random_;
    Buffer content_;
    BitVector data_;
    std::vector<std::uint32_t> granularities_;
    std::deque<BitVector> bits_;
    std::vector<BackupBitmap> bitmaps_;
    std::set<std::uint64_t> clusters_read_;
};

Buffer whole(const Qcow2File &file, BackupSource &source)
{
    Buffer bytes(file.size(), 0xaa);
    must(file.read(source, 0, bytes));
    return bytes;
}

StoreImage image_of(Bytes bytes)
{
    StoreImage image;
    image.size = bytes.size();
    image.bytes.write(0, bytes);
    return image;
}

// A disk of any size of which little is data: some clusters here and there.
class LargeSource final : public BackupSource {
public:
    LargeSource(std::uint64_t size, std::set<std::uint64_t> data, bool full = false)
        : size_(size), data_(std::move(data)), full_(full)
    {
    }
    void set_bitmaps(std::vector<BackupBitmap> bitmaps) { bitmaps_ = std::move(bitmaps); }

    std::uint64_t size() const override { return size_; }
    Result<void> read(GuestOffset offset, MutableBytes bytes) override
    {
        fill_payload(offset, bytes, 3);
        return {};
    }
    Result<std::vector<Extent>> status(std::uint64_t offset, std::uint64_t length) override
    {
        if (full_)
            return std::vector<Extent>{{length, false, false}};
        const auto next = data_.lower_bound(offset / cs);
        const std::uint64_t at = next == data_.end() ? size_ : *next * cs;
        if (at <= offset)
            return std::vector<Extent>{{std::min(length, at + cs - offset), false, false}};
        return std::vector<Extent>{{std::min(length, at - offset), true, true}};
    }
    const std::vector<BackupBitmap> &bitmaps() const override { return bitmaps_; }

private:
    const std::uint64_t size_;
    const std::set<std::uint64_t> data_;
    const bool full_;
    std::vector<BackupBitmap> bitmaps_;
};

// The file as a store, for those who read files.
class FileStoreOf final : public ReadOnlyStore {
public:
    FileStoreOf(const Qcow2File &file, BackupSource &source)
        : ReadOnlyStore("nobody stores it"), file_(file), source_(source)
    {
    }

    std::uint64_t size() const override { return file_.size(); }
    Result<void> read(std::uint64_t offset, MutableBytes bytes) override
    {
        const std::uint64_t there =
            offset < size() ? std::min<std::uint64_t>(bytes.size(), size() - offset) : 0;
        std::fill(bytes.begin(), bytes.end(), std::uint8_t(0));
        return there == 0 ? Result<void>() : file_.read(source_, offset, sub(bytes, 0, there));
    }

private:
    const Qcow2File &file_;
    BackupSource &source_;
};

constexpr std::uint64_t tera = std::uint64_t(1) << 40;

}  // namespace

BOOST_AUTO_TEST_CASE(it_is_a_sound_image_of_the_disk_and_its_bitmaps, *one_thread())
{
    for (const std::uint64_t seed : seeds(60)) {
        SEEDED(seed);
        Random random(seed);
        SmallSource source(
            random, random.one_in(10) ? 0 : 512 * random.between(1, random.coin() ? 300 : 9000));
        for (std::uint64_t n = random.below(4); n > 0 && source.size() != 0; --n)
            source.add_bitmap(random.pick<std::uint32_t>({9, 12, 16, 16, 18, 31}));
        Qcow2File::Wish wish;
        if (!source.bitmaps().empty() && random.coin())
            wish.dirty = random.below(source.bitmaps().size());
        const auto file = must(Qcow2File::make(source, wish));
        const Buffer bytes = whole(*file, source);

        // In pieces it is the same.
        for (int i = 0; i < 60; ++i) {
            const Range range = random.range(bytes.size(), 300000, 4096);
            Buffer found(range.length(), 0x55);
            must(file->read(source, range.begin, found));
            BOOST_REQUIRE(std::equal(found.begin(), found.end(),
                                     bytes.begin() + std::ptrdiff_t(range.begin)));
        }
        Buffer one(1);
        BOOST_TEST(!file->read(source, bytes.size(), one));
        BOOST_TEST(!file->read(source, ~std::uint64_t(0), one));

        const StoreImage image = image_of(bytes);
        ImageView view(image);
        const CheckReport report = must(check(view));
        BOOST_REQUIRE_MESSAGE(report.sound() && report.notes.empty(), report.text());
        if (random.one_in(6))
            BOOST_REQUIRE_EQUAL(qemu_verdict(image, false), "");

        const ImageReader reader = must(ImageReader::open(view));
        BOOST_REQUIRE_EQUAL(reader.disk_size(), source.size());
        std::set<std::uint64_t> expected_read;
        for (std::uint64_t c = 0; c * cs < source.size(); ++c) {
            const bool there = !wish.dirty || source.is_dirty(c, *wish.dirty);
            const std::uint64_t entry = must(reader.l2_entry(GuestCluster(c)));
            if (there && source.has_data(c)) {
                expected_read.insert(c);
                BOOST_REQUIRE(entry & entry_copied);
                Buffer found(std::min(cs, source.size() - c * cs));
                must(reader.read(GuestOffset(c * cs), found));
                BOOST_REQUIRE(std::equal(found.begin(), found.end(),
                                         source.content().begin() + std::ptrdiff_t(c * cs)));
            } else {
                BOOST_REQUIRE_EQUAL(entry, wish.dirty && there ? l2_entry_zero : 0);
            }
        }
        BOOST_REQUIRE(source.clusters_read() ==
                      expected_read);  // and what is not in it is not asked for

        const auto bitmaps = must(reader.bitmaps());
        BOOST_REQUIRE_EQUAL(bitmaps.size(), source.bitmaps().size());
        for (std::size_t b = 0; b < bitmaps.size(); ++b) {
            BOOST_REQUIRE_EQUAL(bitmaps[b].entry.name, source.bitmaps()[b].name);
            BOOST_REQUIRE_EQUAL(bitmaps[b].entry.granularity_bits,
                                source.bitmaps()[b].granularity_bits);
            BOOST_REQUIRE_EQUAL(bitmaps[b].entry.flags, 0u);
            BOOST_REQUIRE(bitmaps[b].bits == source.bits(b));
        }
    }
}

BOOST_AUTO_TEST_CASE(the_header_names_the_backing_file_and_its_format)
{
    Random random(1);
    SmallSource source(random, 1 << 20);
    source.add_bitmap(16);
    for (const std::string &name :
         {std::string("sun.qcow2"), std::string("a b/\xc3\xa9'\"\\"), std::string(1023, 'x')}) {
        const auto file = must(Qcow2File::make(source, {0, name, "qcow2"}));
        const Buffer bytes = whole(*file, source);
        const HeaderArea area = must(decode_header_area(sub(Bytes(bytes), 0, cs)));
        BOOST_TEST(area.backing_file_name == name);
        BOOST_REQUIRE(area.find(ExtensionType::backing_format));
        BOOST_TEST(area.find(ExtensionType::backing_format)->data ==
                       (Buffer{'q', 'c', 'o', 'w', '2'}),
                   boost::test_tools::per_element());
        BOOST_TEST(area.header.autoclear_features == autoclear::bitmaps);
        BOOST_TEST(area.header.incompatible_features == 0u);
    }
    const auto refused = Qcow2File::make(source, {0, std::string(1024, 'x'), "qcow2"});
    BOOST_REQUIRE(!refused);
    BOOST_TEST(refused.error().what.find("has at most 1023 bytes") != std::string::npos,
               refused.error().what);
}

// 16 TiB, all of it data: nobody writes that, but the places are right.
BOOST_AUTO_TEST_CASE(a_large_disk_that_is_full, *one_thread())
{
    for (const std::uint64_t size : {16 * tera, 16 * tera - 512, 200 * tera + 4096}) {
        LargeSource source(size, {}, true);
        BitVector bits(div_ceil(size, std::uint64_t(1) << 31));
        bits.set({bits.size() - 2, bits.size()});
        source.set_bitmaps({backup_bitmap("b", 31, bits)});
        const auto file = must(Qcow2File::make(source, {}));
        FileStoreOf store(*file, source);
        const ImageReader reader = must(ImageReader::open(store));
        const std::uint64_t clusters = div_ceil(size, cs);
        const Header &header = reader.area().header;
        BOOST_TEST(header.l1_size == div_ceil(size, 512 << 20));
        BOOST_TEST(header.refcount_table_clusters * cs <= limits::refcount_table_bytes_max);
        BOOST_TEST(must(reader.refcount(HostCluster(file->size() / cs - 1))) == 1u);
        BOOST_TEST(must(reader.refcount(HostCluster(file->size() / cs))) == 0u);
        const std::uint64_t first = must(reader.l2_entry(GuestCluster(0))) & entry_offset_mask;
        for (const std::uint64_t c : {std::uint64_t(0), std::uint64_t(8191), std::uint64_t(8192),
                                      clusters / 3, clusters - 1})
            BOOST_TEST(must(reader.l2_entry(GuestCluster(c))) == (entry_copied | (first + c * cs)));
        BOOST_TEST(file->size() == first + clusters * cs);
        Buffer tail(512), expected = payload(GuestOffset(size - 512), 512, 3);
        must(reader.read(GuestOffset(size - 512), tail));
        BOOST_TEST(tail == expected, boost::test_tools::per_element());
        BOOST_REQUIRE(must(reader.bitmaps()).front().bits == bits);
    }
}

// And one that is nearly empty costs nearly nothing, with bitmaps up to the limit of QEMU's.
BOOST_AUTO_TEST_CASE(a_large_disk_that_is_nearly_empty, *one_thread())
{
    const std::set<std::uint64_t> data = {0, 1, 8191, 8192, 100000000, 16 * tera / cs - 1};
    LargeSource source(16 * tera, data);
    BitVector bits((16 * tera) >> 20);
    for (const std::uint64_t c : data)
        bits.set(c >> 4);
    const BitVector none((16 * tera) >> 16);
    source.set_bitmaps({backup_bitmap("b", 20, bits), backup_bitmap("none", 16, none)});
    for (const bool dirty : {false, true}) {
        Qcow2File::Wish wish;
        if (dirty)
            wish.dirty = 0;
        const auto file = must(Qcow2File::make(source, wish));
        BOOST_TEST(file->size() < std::uint64_t(4) << 20);
        FileStoreOf store(*file, source);
        const CheckReport report = must(check(store));
        BOOST_REQUIRE_MESSAGE(report.sound(), report.text());
        const ImageReader reader = must(ImageReader::open(store));
        for (const std::uint64_t c : data)
            BOOST_TEST((must(reader.l2_entry(GuestCluster(c))) & entry_copied) != 0u);
        BOOST_TEST(must(reader.l2_entry(GuestCluster(2))) == (dirty ? l2_entry_zero : 0));
        BOOST_TEST(must(reader.l2_entry(GuestCluster(50000000))) == 0u);
        BOOST_REQUIRE(must(reader.bitmaps()).front().bits == bits);
    }
    // 512 bytes on 256 GiB are 64 MiB of bits; on 4 TiB they would be a gigabyte.
    const auto of = [](std::uint64_t size, std::uint32_t granularity_bits) {
        LargeSource disk(size, {5});
        const BitVector clean(size >> granularity_bits);
        disk.set_bitmaps({backup_bitmap("b", granularity_bits, clean)});
        return Qcow2File::make(disk, {});
    };
    must(of(256ull << 30, 9));
    const auto refused = of(4 * tera, 9);
    BOOST_REQUIRE(!refused);
    BOOST_TEST(refused.error().what.find(
                   "bitmap 'b': a bitmap of granularity 512 would be larger than 512 MiB") !=
                   std::string::npos,
               refused.error().what);
    LargeSource larger(std::uint64_t(3) << 50, {});
    BOOST_TEST(!Qcow2File::make(larger, {}));
}

BOOST_AUTO_TEST_SUITE_END()
