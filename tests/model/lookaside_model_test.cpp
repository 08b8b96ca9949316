// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Lookaside beside a map of all that was put: what it says is what was put
// last, and it knows nothing that was forgotten.

#include "core/image/lookaside.h"

#include <map>
#include <thread>

#include "tests/support/random.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(lookaside_model)

BOOST_AUTO_TEST_CASE(says_what_was_put_last_or_nothing)
{
    for (const std::uint64_t seed : seeds(50)) {
        SEEDED(seed);
        Random random(seed);
        Geometry geometry;
        geometry.cluster_bits = static_cast<std::uint32_t>(random.between(9, 21));
        const std::uint64_t host_clusters = std::uint64_t(1) << (56 - geometry.cluster_bits);
        // Also disks whose clusters' numbers have no room in a slot.
        const std::uint64_t clusters = std::uint64_t(1)
                                       << random.between(0, 63 - geometry.cluster_bits);
        Lookaside lookaside(geometry, clusters, random.between(8, 2048));
        // Few places, so that they meet; at both ends of the disk.
        const auto any_cluster = [&] {
            const std::uint64_t near = random.below(std::min<std::uint64_t>(clusters, 400));
            return GuestCluster(random.coin() ? near : clusters - 1 - near);
        };
        std::map<std::uint64_t, Data> model;
        std::uint64_t found = 0;
        for (int step = 0; step < 4000; ++step) {
            const GuestCluster cluster = any_cluster();
            if (random.one_in(20)) {
                const std::uint64_t count = random.between(1, 10);
                lookaside.forget(cluster, count);
                for (std::uint64_t i = 0; i < count; ++i)
                    model.erase(cluster.value + i);
            } else if (random.one_in(200)) {
                lookaside.forget_all();
                model.clear();
            } else if (random.coin()) {
                const std::uint64_t host =
                    random.one_in(3) ? host_clusters - 1 : random.below(host_clusters);
                const Data data{HostOffset(host << geometry.cluster_bits), random.coin()};
                lookaside.put(cluster, data);
                model[cluster.value] = data;
                // It is there if its number has room in any slot.
                if (clusters <= 1u << 15)
                    BOOST_REQUIRE(lookaside.find(cluster) == data);
            }
            if (const auto known = lookaside.find(cluster)) {
                ++found;
                BOOST_REQUIRE(model.contains(cluster.value));
                BOOST_REQUIRE(*known == model[cluster.value]);
            }
        }
        if (clusters <= 1u << 15)
            BOOST_TEST(found > 0u);
    }
}

// Who looks without a lock sees what was put for this cluster, whole: here the
// number of the host cluster tells which one it was put for.
BOOST_AUTO_TEST_CASE(is_read_while_it_changes)
{
    const Geometry geometry;
    Lookaside lookaside(geometry, 1 << 20, 64);
    const auto host_of = [&](GuestCluster cluster, std::uint64_t round) {
        return HostOffset((cluster.value << 8 | (round & 255)) << geometry.cluster_bits);
    };
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> wrong{0}, found{0};
    std::vector<std::thread> readers;
    for (std::uint64_t k = 0; k < 2; ++k)
        readers.emplace_back([&, k] {
            for (std::uint64_t i = k; !stop; ++i) {
                const GuestCluster cluster(i % 24);
                if (const auto data = lookaside.find(cluster)) {
                    ++found;
                    wrong += data->host.value >> (geometry.cluster_bits + 8) != cluster.value;
                }
            }
        });
    for (std::uint64_t round = 0; round < 200000 || found == 0; ++round) {
        const GuestCluster cluster(round * 7 % 24);
        if (round % 5 == 0)
            lookaside.forget(cluster, 2);
        else
            lookaside.put(cluster, {host_of(cluster, round), round % 2 == 0});
    }
    stop = true;
    for (std::thread &reader : readers)
        reader.join();
    BOOST_TEST(wrong == 0u);
}

BOOST_AUTO_TEST_SUITE_END()
