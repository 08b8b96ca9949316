// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// An L2 entry leads to metadata of the image. No request may write there, nor
// give the cluster back: zero, trim, copy-on-write and writing over a compressed
// cluster let go of what the entry names. The request is an error that tells the
// place, the corrupt bit is set, and nothing else has changed in the file.

#include <boost/test/unit_test.hpp>

#include <functional>

#include "core/base/log.h"
#include "core/disk.h"
#include "core/format/findings.h"
#include "tests/support/must.h"
#include "tests/support/patient.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(pointers_to_metadata)

namespace {

constexpr std::uint64_t copied = std::uint64_t(1) << 63;
constexpr std::uint64_t compressed = std::uint64_t(1) << 62;
constexpr std::uint64_t bad_cluster = 3;

// A disk of 16K clusters with one L2 table, and an entry at which to aim.
class Victim {
public:
    explicit Victim(bool extended_l2) : patient_(spec()), extended_l2_(extended_l2)
    {
        table_ = patient_.new_cluster();
        patient_.set_refcount(table_, 1);
        patient_.put(patient_.l1(0), copied | table_);
        if (extended_l2)
            patient_.put(72, 1 << 4);
    }

    // What there is to aim at, and its name.
    std::vector<std::pair<std::string, std::uint64_t>> targets()
    {
        return {{"refcount table", patient_.header().refcount_table_offset.value},
                {"refcount block", patient_.refcount_block()},
                {"L1 table", patient_.header().l1_table_offset.value},
                {"L2 table", table_},
                {"L1 table of a snapshot", patient_.word(patient_.snapshots())},
                {"L2 table of a snapshot",
                 patient_.word(patient_.word(patient_.snapshots())) & entry_offset_mask},
                {"snapshot table", patient_.snapshots()}};
    }

    void aim(std::uint64_t descriptor, std::uint32_t allocated = ~std::uint32_t(0))
    {
        const std::uint64_t at = table_ + bad_cluster * (extended_l2_ ? 16 : 8);
        patient_.put(at, descriptor);
        if (extended_l2_)
            patient_.put(at + 8, descriptor & compressed ? 0 : allocated);
    }

    std::uint64_t cluster_size() const { return patient_.cluster_size(); }
    GuestOffset bad_offset() const { return GuestOffset(bad_cluster * cluster_size()); }

    using Action = std::function<Result<void>(Disk &, GuestOffset)>;
    void is_refused(const Action &action)
    {
        const StoreImage before = patient_.store().image();
        MemoryStore store(before);
        const auto disk = must(Disk::open(store, {}));
        BOOST_REQUIRE(!disk->why_read_only());
        must(disk->begin_writing());
        const Result<void> result = action(*disk, bad_offset());
        BOOST_REQUIRE_MESSAGE(!result, "must be an error");
        const std::string what = result.error().what;
        BOOST_TEST((result.error().code == Errc::corrupt));
        BOOST_TEST(what.find(sentence_of(Finding::data_cluster_is_metadata)) != std::string::npos,
                   what);
        // The cluster at 0xc000, or the place in it that was written.
        BOOST_TEST(what.find("guest offset 0xc") != std::string::npos, what);
        // No more is written, elsewhere either.
        BOOST_CHECK(!disk->write(GuestOffset(0), Buffer(512, 1), false));
        const auto settled = disk->settle();
        BOOST_TEST(settled.has_value(), words(settled));
        must(disk->close());

        StoreImage after = store.image();
        BOOST_TEST((after.bytes.copy(79, 1)[0] & 2) != 0);  // the corrupt bit
        BOOST_REQUIRE(after.size >= before.size);
        BOOST_TEST(
            (after.bytes.copy(512, before.size - 512) == before.bytes.copy(512, before.size - 512)),
            "metadata have changed, or clusters leaked");
    }

private:
    static ImageSpec spec()
    {
        ImageSpec spec;
        spec.cluster_bits = 14;
        spec.size = 16 << 20;
        spec.feature_names = 0;
        spec.clusters = {{9, Preset::snapshot_data}};  // its L2 table is no other's
        return spec;
    }

    Patient patient_;
    const bool extended_l2_;
    std::uint64_t table_ = 0;
};

const Victim::Action trim = [](Disk &disk, GuestOffset at) {
    return disk.trim(at, 16 << 10, false);
};
const Victim::Action zero = [](Disk &disk, GuestOffset at) {
    return disk.zero(at, 16 << 10, {.may_unmap = true});
};
const Victim::Action part_is_written = [](Disk &disk, GuestOffset at) {
    return disk.write(at + 512, Buffer(512, 1), false);
};
const Victim::Action all_is_written = [](Disk &disk, GuestOffset at) {
    return disk.write(at, Buffer(16 << 10, 1), false);
};

void each_target(std::uint64_t flags, const Victim::Action &action)
{
    for (const bool extended_l2 : {false, true}) {
        for (const auto &[name, target] : Victim(extended_l2).targets()) {
            BOOST_TEST_CONTEXT(name << (extended_l2 ? ", extended L2 entry" : ""))
            {
                Victim victim(extended_l2);
                victim.aim(flags | target);
                victim.is_refused(action);
            }
        }
    }
}

}  // namespace

BOOST_AUTO_TEST_CASE(trim_gives_no_metadata_back)
{
    each_target(copied, trim);
    each_target(0, trim);
}

BOOST_AUTO_TEST_CASE(zero_gives_no_metadata_back)
{
    each_target(copied, zero);
    each_target(0, zero);
}

BOOST_AUTO_TEST_CASE(copy_on_write_gives_no_metadata_back)
{
    each_target(0, part_is_written);
    each_target(0, all_is_written);
}

BOOST_AUTO_TEST_CASE(writing_in_place_overwrites_no_metadata)
{
    each_target(copied, part_is_written);
    each_target(copied, all_is_written);
}

BOOST_AUTO_TEST_CASE(writing_over_compressed_data_gives_no_metadata_back)
{
    for (const auto &action : {trim, zero, all_is_written})
        each_target(compressed, action);
}

BOOST_AUTO_TEST_CASE(compressed_data_in_the_header_cluster)
{
    for (const bool extended_l2 : {false, true})
        for (const auto &action : {trim, zero, all_is_written}) {
            Victim victim(extended_l2);
            victim.aim(compressed | 0x200);
            victim.is_refused(action);
        }
}

// Zero clusters that are kept, or whose cluster somebody else has.
BOOST_AUTO_TEST_CASE(zero_clusters_with_metadata_for_their_cluster)
{
    for (const std::uint64_t flags : {std::uint64_t(1), copied | 1})
        for (const auto &action : {trim, zero, part_is_written, all_is_written})
            for (const auto &[name, target] : Victim(false).targets())
                BOOST_TEST_CONTEXT(name)
                {
                    Victim victim(false);
                    victim.aim(flags | target);
                    victim.is_refused(action);
                }
}

// Parts that are not there yet, beside parts that seem to be.
BOOST_AUTO_TEST_CASE(subclusters_in_metadata)
{
    for (const std::uint64_t flags : {std::uint64_t(0), copied})
        for (const auto &action : {trim, zero, part_is_written, all_is_written})
            for (const auto &[name, target] : Victim(true).targets())
                BOOST_TEST_CONTEXT(name)
                {
                    Victim victim(true);
                    victim.aim(flags | target, 0xffff0000);
                    victim.is_refused(action);
                }
}

BOOST_AUTO_TEST_SUITE_END()
