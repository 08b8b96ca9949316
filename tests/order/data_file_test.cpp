// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Images with an external data file: the order among two stores.

#include "tests/order/order.h"
#include "tests/support/patient.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(order_data_file)

namespace {

constexpr std::uint64_t cluster_size = 4096;
constexpr std::uint64_t copied = std::uint64_t(1) << 63;

// What both stores were asked to do, in one order.
struct Step {
    enum class Kind { write, flush };
    bool in_data_file;
    Kind kind;
    Range range;
};
using Steps = std::vector<Step>;

// Passes everything on and writes down what changes the file, as it begins.
class Witness final : public ByteStore {
public:
    Witness(ByteStore &base, Steps &steps, bool is_data_file)
        : base_(base), steps_(steps), is_data_file_(is_data_file)
    {
    }

    std::uint64_t size() const override { return base_.size(); }
    std::uint64_t fresh_from() const override { return base_.fresh_from(); }
    Result<void> read(std::uint64_t offset, MutableBytes bytes) override
    {
        return base_.read(offset, bytes);
    }
    Result<void> write(std::uint64_t offset, Bytes bytes) override
    {
        steps_.push_back({is_data_file_, Step::Kind::write, Range::of(offset, bytes.size())});
        return base_.write(offset, bytes);
    }
    Result<void> zero(std::uint64_t offset, std::uint64_t length, bool may_unmap) override
    {
        steps_.push_back({is_data_file_, Step::Kind::write, Range::of(offset, length)});
        return base_.zero(offset, length, may_unmap);
    }
    Result<void> discard(std::uint64_t offset, std::uint64_t length) override
    {
        return base_.discard(offset, length);
    }
    Result<void> flush() override
    {
        steps_.push_back({is_data_file_, Step::Kind::flush, {}});
        return base_.flush();
    }
    bool can_flush() const override { return base_.can_flush(); }
    Result<void> grow(std::uint64_t size_min) override { return base_.grow(size_min); }
    bool can_grow() const override { return base_.can_grow(); }
    Result<void> cut(std::uint64_t size) override { return base_.cut(size); }
    bool read_only() const override { return base_.read_only(); }

private:
    ByteStore &base_;
    Steps &steps_;
    const bool is_data_file_;
};

class Opener final : public FileOpener {
public:
    Opener(ByteStore &file, Steps &steps) : file_(file), steps_(steps) {}

    Result<NamedFile> open(const std::string &, const ChainPlace &, bool) override
    {
        ++opened;
        return NamedFile{std::make_unique<Witness>(file_, steps_, true), "/elsewhere", "/elsewhere",
                         "elsewhere"};
    }
    unsigned opened = 0;

private:
    ByteStore &file_;
    Steps &steps_;
};

ImageSpec spec()
{
    ImageSpec spec;
    spec.cluster_bits = 12;
    spec.size = 4 << 20;
    spec.feature_names = 0;
    const std::string name = "elsewhere";
    spec.more_extensions = {{ExtensionType::data_file, Buffer(name.begin(), name.end())}};
    return spec;
}

// An image with a data file, in which guest clusters may be mapped beforehand.
class Pair {
public:
    Pair(std::uint64_t data_size, std::initializer_list<std::uint64_t> mapped = {},
         const std::vector<std::string> &bitmaps = {}, bool own_table = true)
        : patient_(spec()),
          data_(data_size),
          opener_(data_, steps_),
          image_(patient_.store(), steps_, false)
    {
        patient_.put(72, 4);
        for (const std::uint64_t cluster : mapped) {
            if (patient_.word(patient_.l1(0)) == 0) {
                const std::uint64_t table = patient_.new_cluster();
                patient_.set_refcount(table, 1);
                patient_.put(patient_.l1(0), (own_table ? copied : 0) | table);
            }
            patient_.put(patient_.l2(cluster), copied | cluster * cluster_size);
        }
        DiskOptions options;
        options.files = &opener_;
        options.bitmaps = bitmaps;
        disk_ = must(Disk::open(image_, options));
        must(disk_->begin_writing());
        steps_.clear();
    }

    Disk &disk() { return *disk_; }
    MemoryStore &data() { return data_; }
    Patient &patient() { return patient_; }
    const Steps &steps() const { return steps_; }
    unsigned opened() const { return opener_.opened; }

    std::size_t find(std::size_t from, bool in_data_file, Step::Kind kind, Range range = {}) const
    {
        while (from < steps_.size() &&
               (steps_[from].in_data_file != in_data_file || steps_[from].kind != kind ||
                !(range.empty() || steps_[from].range.contains(range))))
            ++from;
        return from;
    }

private:
    Patient patient_;
    MemoryStore data_;
    Steps steps_;
    Opener opener_;
    Witness image_;
    std::unique_ptr<Disk> disk_;
};

}  // namespace

// Data there, then mapping here; and nothing here is made durable while data
// there is not.
BOOST_AUTO_TEST_CASE(W2_the_data_file_is_durable_before_it_is_mapped)
{
    Pair pair(4 << 20);
    must(pair.disk().write(GuestOffset(5 * cluster_size), Buffer(cluster_size, 1), false));
    const std::size_t before = pair.steps().size();
    const std::size_t data =
        pair.find(0, true, Step::Kind::write, Range::of(5 * cluster_size, cluster_size));
    BOOST_REQUIRE(data < before);
    must(pair.disk().flush());
    const std::size_t there = pair.find(data, true, Step::Kind::flush);
    const std::size_t here = pair.find(before, false, Step::Kind::flush);
    BOOST_TEST(there < here);
    const std::size_t named =
        pair.find(0, false, Step::Kind::write, Range::of(pair.patient().l1(0), 8));
    BOOST_REQUIRE(named < pair.steps().size());
    BOOST_TEST(there < named);
    const std::size_t entry =
        pair.find(before, false, Step::Kind::write, Range::of(pair.patient().l2(5), 8));
    BOOST_REQUIRE(entry < pair.steps().size());
    BOOST_TEST(there < entry);
    // W4: and the mapping with it.
    BOOST_TEST(pair.find(entry, false, Step::Kind::flush) < pair.steps().size());
}

BOOST_AUTO_TEST_CASE(B2_bits_here_are_durable_before_data_there)
{
    Pair pair(4 << 20, {5}, {"b0"});
    must(pair.disk().write(GuestOffset(5 * cluster_size), Buffer(cluster_size, 1), false));
    const std::size_t data = pair.find(0, true, Step::Kind::write);
    BOOST_REQUIRE(data < pair.steps().size());
    const std::size_t bits = pair.find(0, false, Step::Kind::write);
    BOOST_REQUIRE(bits < data);
    BOOST_TEST(pair.find(bits, false, Step::Kind::flush) < data);
}

// Nobody counts its clusters: bit 63 says that they are there, also in a copy of
// their L2 table.
BOOST_AUTO_TEST_CASE(clusters_of_a_data_file_keep_bit_63)
{
    Pair pair(4 << 20, {300}, {}, false);
    const std::uint64_t table = pair.patient().l2(0);
    must(pair.disk().write(GuestOffset(301 * cluster_size), Buffer(512, 1), true));
    BOOST_REQUIRE(pair.patient().l2(0) != table);
    BOOST_TEST(pair.patient().word(pair.patient().l2(300)) == (copied | 300 * cluster_size));
}

// Bit 63 without an offset is the first cluster, wherever in the disk it stands.
BOOST_AUTO_TEST_CASE(a_cluster_that_the_disk_has_at_another_place_is_an_error)
{
    for (const std::uint64_t raw :
         {copied, copied | 3 * cluster_size, copied | 3 * cluster_size | 1}) {
        Pair pair(1 << 20, {0});
        pair.patient().put(pair.patient().l2(5), raw);
        const Buffer first(cluster_size, 7);
        must(pair.disk().write(GuestOffset(0), first, true));
        Buffer bytes(512);
        for (const auto &result :
             {pair.disk().read(GuestOffset(5 * cluster_size), bytes),
              pair.disk().write(GuestOffset(5 * cluster_size), bytes, false),
              pair.disk().zero(GuestOffset(5 * cluster_size), 512, {}),
              pair.disk().trim(GuestOffset(5 * cluster_size), cluster_size, false),
              pair.disk().resize(5 * cluster_size + 512)}) {
            BOOST_REQUIRE(!result);
            BOOST_CHECK(result.error().code == Errc::corrupt);
            const std::string &what = result.error().what;
            BOOST_TEST(what.find("host offset") != std::string::npos, what);
        }
        Buffer found(cluster_size);
        must(pair.disk().read(GuestOffset(0), found));
        BOOST_TEST((found == first));
    }
}

BOOST_AUTO_TEST_CASE(a_data_file_is_not_opened_again_by_its_name)
{
    Pair pair(1 << 20, {0});
    must(pair.disk().write(GuestOffset(0), Buffer(cluster_size, 7), false));
    must(pair.disk().resize(8 << 20));
    BOOST_TEST(pair.opened() == 1u);
    must(pair.disk().write(GuestOffset(7 << 20), Buffer(cluster_size, 8), true));
    Buffer found(cluster_size);
    must(pair.disk().read(GuestOffset(0), found));
    BOOST_TEST((found == Buffer(cluster_size, 7)));
}

// What is mapped may lie behind its end.
BOOST_AUTO_TEST_CASE(a_data_file_that_is_too_short_grows)
{
    for (const std::uint64_t offset : {600 * cluster_size, 600 * cluster_size + 512}) {
        Pair pair(cluster_size, {5});
        const GuestOffset mapped(5 * cluster_size + 512);
        must(pair.disk().write(mapped, Buffer(512, 1), false));
        BOOST_TEST(pair.data().size() >= mapped.value + 512);
        must(pair.disk().write(GuestOffset(offset), Buffer(512, 2), false));
        Buffer bytes(512);
        must(pair.disk().read(mapped, bytes));
        BOOST_TEST((bytes == Buffer(512, 1)));
        must(pair.disk().read(GuestOffset(offset), bytes));
        BOOST_TEST((bytes == Buffer(512, 2)));
        must(pair.disk().read(GuestOffset(5 * cluster_size), bytes));
        BOOST_TEST((bytes == Buffer(512)));
    }
}

BOOST_AUTO_TEST_SUITE_END()
