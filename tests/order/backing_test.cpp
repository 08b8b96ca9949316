// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Images with a backing file: what is zeroed where that one has holes.

#include "tests/order/order.h"
#include "tests/support/patient.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(order_backing)

namespace {

constexpr std::uint64_t cs = 16384;
constexpr std::uint64_t zero_entry = 1;

// 4 KiB that are zeros are a hole.
class Sparse final : public MemoryStore {
public:
    using MemoryStore::MemoryStore;
    Stretch stretch(std::uint64_t offset, std::uint64_t length_max) override
    {
        if (asked)
            std::exchange(asked, nullptr)();
        const auto hole = [&](std::uint64_t at) {
            return all_zero(image().bytes.copy(align_down(at, 4096), 4096));
        };
        const bool first = hole(offset);
        std::uint64_t end = align_down(offset, 4096) + 4096;
        while (end < offset + length_max && hole(end) == first)
            end += 4096;
        return {std::min(end - offset, length_max), first};
    }
    std::function<void()> asked;  // once
};

// The backing file has data in the first 4 KiB of clusters 0 to 3 and nothing
// else, and ends in cluster 8.
class Overlay final : FileOpener {
public:
    explicit Overlay(bool extended_l2 = false, std::uint32_t version = 3)
    {
        ImageSpec spec;
        spec.version = version;
        spec.cluster_bits = 14;
        spec.size = 64 * cs;
        spec.feature_names = 0;
        if (version == 3) {
            const std::string format = "raw";
            spec.more_extensions = {
                {ExtensionType::backing_format, Buffer(format.begin(), format.end())}};
        }
        patient_.emplace(spec);
        if (version == 2) {
            patient_->put(72, std::uint64_t(0xe2792aca) << 32 | 3);
            patient_->put(80, std::uint64_t('r') << 56 | std::uint64_t('a') << 48 |
                                  std::uint64_t('w') << 40);
        }
        if (extended_l2)
            patient_->put(72, 16);
        must(patient_->store().write(8192, Buffer{'b', 'e', 'l', 'o', 'w'}));
        patient_->put(8, 8192);
        patient_->put_32(16, 5);
        DiskOptions options;
        options.files = this;
        disk_ = must(Disk::open(patient_->store(), options));
        must(disk_->begin_writing());
    }

    Disk &disk() { return *disk_; }
    Patient &patient() { return *patient_; }
    Sparse &below() { return *below_; }
    unsigned opened() const { return opened_; }

    void zero(std::uint64_t offset, std::uint64_t length, ZeroFlags flags = {})
    {
        must(disk_->zero(GuestOffset(offset), length, flags));
    }
    bool fast(std::uint64_t offset, std::uint64_t length)
    {
        return disk_->zero(GuestOffset(offset), length, {.fast = true}).has_value();
    }
    // After a flush: what the file has in the entry of a cluster; 0: there is no table.
    std::uint64_t entry(std::uint64_t cluster, std::uint64_t word = 0, std::uint64_t words = 1)
    {
        must(disk_->flush());
        const std::uint64_t table = patient_->word(patient_->l1(0)) & entry_offset_mask;
        return table == 0 ? 0 : patient_->word(table + (cluster * words + word) * 8);
    }
    Buffer read(std::uint64_t offset, std::uint64_t length)
    {
        Buffer bytes(length);
        must(disk_->read(GuestOffset(offset), bytes));
        return bytes;
    }

private:
    Result<NamedFile> open(const std::string &, const ChainPlace &, bool) override
    {
        ++opened_;
        auto store = std::make_unique<Sparse>(8 * cs + 4096);
        below_ = store.get();
        for (std::uint64_t cluster = 0; cluster < 4; ++cluster)
            must(store->write(cluster * cs, Buffer(4096, 7)));
        return NamedFile{std::move(store), "/below", "/below", "below"};
    }

    std::optional<Patient> patient_;
    Sparse *below_ = nullptr;
    unsigned opened_ = 0;
    std::unique_ptr<Disk> disk_;
};

}  // namespace

// A part of a cluster is zeroed, all of which reads as zeros: a zero cluster, which
// takes no room.
BOOST_AUTO_TEST_CASE(a_part_of_what_reads_as_zeros_becomes_a_zero_cluster)
{
    for (const bool may_unmap : {false, true}) {
        Overlay overlay;
        overlay.zero(5 * cs + 4096, 4096, {.may_unmap = may_unmap});
        BOOST_TEST(overlay.entry(5) == zero_entry);
        // Two of them, and the one in which the backing file ends.
        overlay.zero(7 * cs - 512, 1024, {.may_unmap = may_unmap});
        overlay.zero(8 * cs, 512, {.may_unmap = may_unmap});
        for (const std::uint64_t cluster : {6, 7, 8})
            BOOST_TEST(overlay.entry(cluster) == zero_entry);
        // Two parts around whole ones.
        overlay.zero(20 * cs - 512, 2 * cs + 1024, {.may_unmap = may_unmap});
        for (const std::uint64_t cluster : {19, 20, 21, 22})
            BOOST_TEST(overlay.entry(cluster) == zero_entry);
        BOOST_TEST(all_zero(overlay.read(4 * cs, 20 * cs)));
    }
}

// The part reads as zeros, and the rest does not: there is nothing to be done.
BOOST_AUTO_TEST_CASE(a_part_that_reads_as_zeros_is_not_written)
{
    Overlay overlay;
    overlay.zero(cs + 4096, 4096);
    overlay.zero(3 * cs - 512, 512);
    BOOST_TEST(overlay.entry(1) == 0u);
    BOOST_TEST(overlay.entry(2) == 0u);
    BOOST_TEST(overlay.fast(cs + 4096, cs - 4096));
    BOOST_TEST(!overlay.fast(cs + 4095, cs - 4095));
    overlay.zero(cs + 4095, 2);
    BOOST_TEST((overlay.entry(1) & entry_copied) != 0u);
    Buffer expected(cs);
    std::fill_n(expected.begin(), 4095, 7);
    BOOST_TEST((overlay.read(cs, cs) == expected));
    // Version 2 has no zero clusters.
    Overlay old(false, 2);
    old.zero(5 * cs + 4096, 4096);
    BOOST_TEST(old.entry(5) == 0u);
}

BOOST_AUTO_TEST_CASE(a_part_of_a_subcluster_that_reads_as_zeros_becomes_a_zero_subcluster)
{
    Overlay overlay(true);
    overlay.zero(5 * cs + 1024, 256);      // the third of 32
    overlay.zero(5 * cs + 2048 - 1, 514);  // the fourth to the sixth
    overlay.zero(cs + 4096 - 1, 2);        // one with data, and one without
    BOOST_TEST(overlay.entry(5, 0, 2) == 0u);
    BOOST_TEST(overlay.entry(5, 1, 2) == std::uint64_t(0b111100) << 32);
    BOOST_TEST(overlay.entry(1, 1, 2) == (std::uint64_t(1 << 8) << 32 | 1 << 7));
    Buffer expected(cs);
    std::fill_n(expected.begin(), 4095, 7);
    BOOST_TEST((overlay.read(cs, cs) == expected));
    BOOST_TEST(all_zero(overlay.read(5 * cs, cs)));
}

// A snapshot keeps what it had; the disk takes no room but for its table.
BOOST_AUTO_TEST_CASE(a_part_that_reads_as_zeros_is_not_written_after_a_snapshot)
{
    for (const bool extended_l2 : {false, true}) {
        Overlay overlay(extended_l2);
        const std::uint64_t words = extended_l2 ? 2 : 1;
        overlay.zero(5 * cs, 4096);
        overlay.zero(cs, cs);
        must(overlay.disk().write(GuestOffset(9 * cs), Buffer(cs, 9), false));
        must(overlay.disk().create_snapshot({"s", 0, 0}));
        const std::uint64_t data = overlay.entry(9, 0, words);
        overlay.zero(5 * cs + 512, 4096);
        overlay.zero(cs + 512, 4096);
        overlay.zero(10 * cs, 512);
        for (const std::uint64_t cluster : {1, 5, 10})
            BOOST_TEST((overlay.entry(cluster, 0, words) & entry_offset_mask) == 0u);
        BOOST_TEST((overlay.entry(9, 0, words) & entry_offset_mask) == (data & entry_offset_mask));
        must(overlay.disk().trim(GuestOffset(9 * cs), cs, false));
        overlay.zero(9 * cs + 512, 512);
        BOOST_TEST((overlay.entry(9, 0, words) & entry_offset_mask) == 0u);
        must(overlay.disk().revert("s"));
        BOOST_TEST((overlay.read(9 * cs, cs) == Buffer(cs, 9)));
    }
}

// It may have been renamed meanwhile.
BOOST_AUTO_TEST_CASE(a_backing_file_is_not_opened_again_by_its_name)
{
    Overlay overlay;
    must(overlay.disk().create_snapshot({"s", 0, 0}));
    must(overlay.disk().resize(70 * cs));
    must(overlay.disk().revert("s"));
    BOOST_TEST(overlay.opened() == 1u);
    BOOST_TEST((overlay.read(cs, 4096) == Buffer(4096, 7)));
}

// Who writes to the rest meanwhile is not overwritten.
BOOST_AUTO_TEST_CASE(a_cluster_that_is_written_to_meanwhile_becomes_no_zero_cluster)
{
    for (const bool extended_l2 : {false, true}) {
        Overlay overlay(extended_l2);
        overlay.below().asked = [&] {
            must(overlay.disk().write(GuestOffset(5 * cs), Buffer(512, 9), false));
        };
        overlay.zero(5 * cs + 256, 128);
        Buffer expected(cs);
        std::fill_n(expected.begin(), 512, 9);
        std::fill_n(expected.begin() + 256, 128, 0);
        BOOST_TEST((overlay.read(5 * cs, cs) == expected));
    }
}

BOOST_AUTO_TEST_SUITE_END()
