// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What the allocator does in orders and crashes is shown elsewhere (order/,
// crash/, model/); this is about how much it reads for it, and about what it
// calls fresh.

#include <set>

#include <boost/test/unit_test.hpp>

#include "core/check/check.h"
#include "core/disk.h"
#include "core/image/create.h"
#include "core/image/open_image.h"
#include "tests/support/fault_store.h"
#include "tests/support/image_builder.h"
#include "tests/support/memory_store.h"
#include "tests/support/must.h"
#include "tests/support/recording_store.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(allocator)

namespace {

constexpr std::uint64_t cluster = 64 << 10;
constexpr std::uint64_t block_reach = cluster / 2 * cluster;  // 2 GiB

void put(ByteStore &store, std::uint64_t offset, std::uint64_t value, unsigned bytes)
{
    Buffer buffer(bytes);
    for (unsigned i = 0; i < bytes; ++i)
        buffer[i] = static_cast<std::uint8_t>(value >> 8 * (bytes - 1 - i));
    must(store.write(offset, buffer));
}

// An image of so many refcount blocks, each in the first cluster it counts,
// where everything is counted as in use.
StoreImage full_image(std::uint64_t blocks)
{
    MemoryStore store(0);
    must(create_image(store, 64 << 20));
    Buffer word(8);
    must(store.read(48, word));  // refcount_table_offset
    const std::uint64_t table = load_be64(word.data());
    must(store.read(table, word));
    must(store.grow(blocks * block_reach));
    Buffer ones(cluster);
    for (std::size_t i = 1; i < ones.size(); i += 2)
        ones[i] = 1;
    must(store.write(load_be64(word.data()), ones));
    for (std::uint64_t i = 1; i < blocks; ++i) {
        must(store.write(i * block_reach, ones));
        put(store, table + 8 * i, i * block_reach, 8);
    }
    return store.image();
}

// A log that has no memory for a warning.
void no_memory_for_warnings(LogLevel level, const std::string &)
{
    if (level == LogLevel::warning)
        throw std::bad_alloc();
}

std::uint64_t bytes_read(const Recording &recording)
{
    std::uint64_t bytes = 0;
    for (const Operation &operation : recording.operations)
        if (operation.kind == Operation::Kind::read)
            bytes += operation.length;
    return bytes;
}

// An allocator over a small file, with tables that soon become too short, and
// everything that was ever sent to the store.
class Freshness {
public:
    Freshness(Random &random, const ImageSpec &spec)
        : random_(random),
          memory_(
              build_image(spec).image,
              {.growth_step = random.pick<std::uint64_t>({512, 65536, 1 << 20}),
               .size_limit = random.pick<std::uint64_t>({1 << 19, 3 << 20, 6 << 20, 40 << 20})}),
          faults_(memory_, plan_),
          store_(faults_),
          image_(must(open_image(store_, {})))
    {
        must(image_->begin_writing());
        for (const unsigned most : {60, 10, 10, 30, 6})
            weights_.push_back(static_cast<unsigned>(random.between(1, most)));
        // There may be room for a longer refcount table, but not for this.
        if (const auto run =
                image_->allocator().take_contiguous(random.pick<std::uint64_t>({1, 8000, 100000})))
            use(*run);
    }

    // Takes, writes, gives back, frees; any write may fail, and land or not.
    void step()
    {
        if (random_.one_in(6))
            plan_.arm({.kinds = Fault::writes,
                       .nth = random_.between(1, 4),
                       .lands = random_.coin(),
                       .errc = random_.pick({Errc::io, Errc::no_space})});
        // The same again and again finds what lies far away.
        const std::size_t action = random_.weighted(weights_);
        for (std::uint64_t n = random_.pick<std::uint64_t>({1, 1, 1, 5, 200}); n > 0; --n) {
            act(action);
            note_what_was_sent();
        }
        plan_.disarm();
    }
    std::uint64_t fresh_taken() const { return fresh_taken_; }

private:
    static constexpr std::uint64_t cs = 512;

    void act(std::size_t action)
    {
        Allocator &allocator = image_->allocator();
        switch (action) {
        case 0:
            if (const auto taken =
                    allocator.take(random_.pick<std::uint64_t>({1, 20, 300, 3000}))) {
                note_what_was_sent();
                if (taken->fresh)
                    expect_nothing_sent(taken->run);
                use(taken->run);
            }
            break;
        case 1:
            if (const auto run =
                    allocator.take_contiguous(random_.pick<std::uint64_t>({1, 3, 30, 900, 100000})))
                use(*run);
            break;
        case 2:
            if (!used_.empty())
                allocator.give_back(drop());
            break;
        case 3:
            if (!used_.empty())
                allocator.lower(drop());
            break;
        case 4: (void)allocator.settle(); break;
        }
    }

    void use(HostRun run)
    {
        used_.push_back(run);
        // The last may be beyond memory that a test should need.
        const std::uint64_t written = std::min<std::uint64_t>(run.count, 400);
        (void)image_->store().write(run.first.value * cs, Buffer(written * cs, 0xee));
    }

    HostRun drop()
    {
        std::swap(used_[random_.below(used_.size())], used_.back());
        const HostRun run = used_.back();
        used_.pop_back();
        return run;
    }

    void note_what_was_sent()
    {
        for (const Operation &operation : store_.recording().operations)
            if (operation.writes())
                for (std::uint64_t at = operation.offset / cs; at * cs < operation.range().end;
                     ++at)
                    sent_.insert(at);
        store_.forget();
    }

    void expect_nothing_sent(HostRun run)
    {
        ++fresh_taken_;
        const auto first = sent_.lower_bound(run.first.value);
        BOOST_REQUIRE_MESSAGE(first == sent_.end() || *first >= run.end().value,
                              "the cluster " << *first << " is called fresh");
    }

    Random &random_;
    MemoryStore memory_;
    FaultPlan plan_;
    FaultStore faults_;
    RecordingStore store_;
    std::unique_ptr<Image> image_;
    std::vector<unsigned> weights_;
    std::vector<HostRun> used_;
    std::set<std::uint64_t> sent_;  // clusters
    std::uint64_t fresh_taken_ = 0;
};

}  // namespace

BOOST_AUTO_TEST_CASE(W2_nothing_was_ever_sent_to_a_fresh_cluster)
{
    std::uint64_t taken = 0;
    for (const std::uint64_t seed : seeds(60)) {
        SEEDED(seed);
        Random random(seed);
        ImageSpec spec;
        spec.cluster_bits = 9;
        spec.refcount_order = 6;
        spec.size = 1 << 20;
        Freshness freshness(random, spec);
        for (int step = 0; step < 40; ++step)
            freshness.step();
        taken += freshness.fresh_taken();
    }
    BOOST_TEST(taken > 100u);
}

// In a full image each cluster that becomes free is found without a look at all
// refcounts behind it.
BOOST_AUTO_TEST_CASE(the_search_for_more_than_one_cluster_ends_soon)
{
    constexpr std::uint64_t blocks = 128;
    StoreOptions options;
    options.can_grow = false;
    MemoryStore memory(full_image(blocks), options);
    // For the L2 table and the data, in the third block.
    put(memory, 2 * block_reach + 2 * 5, 0, 2);
    put(memory, 2 * block_reach + 2 * 9, 0, 2);
    RecordingStore store(memory, true);
    const auto disk = must(Disk::open(store, {}));
    must(disk->begin_writing());
    const std::uint64_t before = bytes_read(store.recording());
    must(disk->write(GuestOffset(0), Buffer(cluster, 1), false));
    BOOST_TEST(bytes_read(store.recording()) - before < blocks / 2 * cluster);
    // There is no more: that is known when all has been seen.
    BOOST_CHECK(disk->write(GuestOffset(cluster), Buffer(cluster, 1), false).error().code ==
                Errc::no_space);
}

// Read together, counts are what they are one by one: over the end of a piece and of a block,
// where there is no block, and behind the last one.
BOOST_AUTO_TEST_CASE(counts_that_are_read_together_are_those_of_each_cluster)
{
    constexpr std::uint64_t blocks = 4, entries = cluster / 2;
    MemoryStore memory(full_image(blocks));
    Buffer word(8);
    must(memory.read(48, word));  // refcount_table_offset
    put(memory, load_be64(word.data()) + 8 * 2, 0, 8);
    for (std::uint64_t i = 0; i < 100; ++i)
        put(memory, block_reach + 2 * (2048 - 50 + i), i, 2);
    const auto image = must(open_image(memory, {}));
    Allocator &allocator = image->allocator();
    std::set<std::uint64_t> seen;
    for (const std::uint64_t first :
         {std::uint64_t(0), entries - 3, entries + 2048 - 50, 2 * entries - 5, 3 * entries - 64,
          3 * entries - 1, 4 * entries - 7, 4 * entries, 9 * entries}) {
        std::vector<std::uint64_t> together(64), alone;
        must(allocator.refcounts(HostCluster(first), together));
        for (std::uint64_t i = 0; i < together.size(); ++i)
            alone.push_back(must(allocator.refcount(HostCluster(first + i))));
        BOOST_TEST(together == alone, boost::test_tools::per_element());
        seen.insert(alone.begin(), alone.end());
    }
    BOOST_TEST(seen.size() == 64u);  // 0 to 63
}

// So that a change of the structure does not make it while everybody waits.
BOOST_AUTO_TEST_CASE(what_was_seen_in_the_look_for_a_free_cluster_is_not_read_again)
{
    constexpr std::uint64_t blocks = 32;
    MemoryStore memory(full_image(blocks));
    put(memory, (blocks - 1) * block_reach + 2 * 9, 0, 2);
    RecordingStore store(memory, true);
    const auto image = must(open_image(store, {}));
    must(image->begin_writing());
    must(image->allocator().look_for_free());
    const std::uint64_t seen = bytes_read(store.recording());
    BOOST_TEST(seen > (blocks - 1) * cluster);
    const HostRun run = must(image->allocator().take_contiguous(1));
    BOOST_TEST(run.first.value == ((blocks - 1) * block_reach >> 16) + 9);
    BOOST_TEST(bytes_read(store.recording()) - seen <= cluster);
    image->allocator().give_back(run);
    must(image->settle());
}

// H1: a block may be named although the write of its name has failed. Then the file is not cut
// in front of it.
BOOST_AUTO_TEST_CASE(H1_a_block_that_may_be_named_stays_in_the_file)
{
    ImageSpec spec;
    spec.cluster_bits = 9;
    spec.refcount_order = 6;  // a block counts 64 clusters
    spec.size = 20 << 10;
    unsigned failed = 0;
    for (std::uint64_t nth = 1;; ++nth) {
        BOOST_TEST_INFO_SCOPE("write " << nth);
        MemoryStore memory(build_image(spec).image);
        FaultPlan plan;
        FaultStore store(memory, plan);
        const auto image = must(open_image(store, {}));
        must(image->begin_writing());
        Allocator &allocator = image->allocator();
        const auto up_to_the_next_block = [&]() -> Result<void> {
            std::vector<HostRun> taken;
            Result<void> result;
            while (result && (taken.empty() || taken.back().end().value <= 64))
                if (const auto more = allocator.take(64))
                    taken.push_back(more->run);
                else
                    result = more.error();
            for (const HostRun &run : taken)
                allocator.give_back(run);
            return result;
        };
        const auto sound = [&] {
            must(image->settle());
            must(image->cut());
            const CheckReport report = must(check(memory));
            BOOST_TEST(report.leaks_at_worst(), report.text());
        };
        plan.arm({.kinds = Fault::writes, .nth = nth, .lands = true});
        failed += !up_to_the_next_block();
        plan.disarm();
        sound();
        must(up_to_the_next_block());  // the same again, in the table
        sound();
        BOOST_TEST(memory.size() == 65u * 512);  // the block, and nothing keeps more
        if (plan.struck() == 0)
            break;
    }
    BOOST_TEST(failed > 1u);
}

// The reserve is two clusters far from each other. The first is given back, the second
// cannot be, nor can that be told: then the first is not in the reserve any more.
BOOST_AUTO_TEST_CASE(C9_a_settle_that_ends_in_the_middle_hands_nothing_out_twice)
{
    StoreImage full = full_image(12);
    const HostCluster near(5);  // the other is 10 * cluster / 2 + 7
    {
        MemoryStore memory(full);
        Buffer word(8);
        must(memory.read(48, word));
        must(memory.read(load_be64(word.data()), word));
        put(memory, load_be64(word.data()) + 2 * 5, 0, 2);
        put(memory, 10 * block_reach + 2 * 7, 0, 2);
        full = memory.image();
    }
    MemoryStore memory(full, {.can_grow = false, .size_limit = full.size});
    FaultPlan plan;
    FaultStore store(memory, plan);
    ImageOptions options;
    options.cache_bytes = 1;  // as little as there can be
    const auto image = must(open_image(store, options));
    must(image->begin_writing());
    Allocator &allocator = image->allocator();
    const HostRun taken = must(allocator.take(1)).run;
    BOOST_REQUIRE((taken.first == near && taken.count == 1));
    allocator.give_back(taken);
    for (std::uint64_t other = cluster / 2; other < 10 * cluster / 2; other += 256)
        must(allocator.refcount(HostCluster(other)));  // in the place of what counts that
    must(allocator.refcount(near));
    plan.arm({.kinds = Fault::reads, .nth = 1});
    set_log_sink(no_memory_for_warnings);
    BOOST_CHECK_THROW((void)allocator.settle(), std::bad_alloc);
    set_log_sink(nullptr);
    BOOST_TEST(plan.struck() == 1u);
    plan.disarm();
    std::set<std::uint64_t> handed_out;
    for (;;) {
        const auto next = allocator.take(1);
        if (!next)
            break;
        BOOST_REQUIRE(handed_out.insert(next->run.first.value).second);
    }
    BOOST_TEST(!handed_out.empty());
}

BOOST_AUTO_TEST_SUITE_END()
