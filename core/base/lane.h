// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Lanes: places to count in for threads that would get into each other's way in
// one. A counter that every request changes makes its cache line travel from
// processor to processor; here each processor has a line to itself, as long as
// there are no more of them than lanes. The sum is over all of them.
//
// Any thread. What it is counted in is the caller's: a thread may be moved to
// another processor at any time, so who counts up in a lane remembers it and
// counts down there.

#pragma once

#include <atomic>
#include <cstdint>

#include <sched.h>

namespace qcow2 {

constexpr unsigned lanes = 16;
constexpr std::size_t lane_bytes = 64;  // a cache line

inline unsigned this_lane()
{
    return static_cast<unsigned>(sched_getcpu()) % lanes;  // -1, if it is not known, is one too
}

// How many of something have begun and ended.
class Activity {
public:
    // One more has begun; at the end of the scope it has ended.
    class Scope {
    public:
        explicit Scope(Activity &activity) : lane_(activity.lanes_[this_lane()]) { ++lane_.begun; }
        ~Scope() { ++lane_.ended; }
        Scope(const Scope &) = delete;
        Scope &operator=(const Scope &) = delete;

    private:
        friend class Activity;
        struct alignas(lane_bytes) Lane {
            std::atomic<std::uint64_t> begun{0}, ended{0};
        };
        Lane &lane_;
    };

    std::uint64_t begun() const { return sum(&Scope::Lane::begun); }
    // False: at a moment during the call none was under way. In this order: what
    // ends later than we look at it must not make up for what has not ended.
    bool any() const
    {
        const std::uint64_t ended = sum(&Scope::Lane::ended);
        return begun() != ended;
    }

private:
    std::uint64_t sum(std::atomic<std::uint64_t> Scope::Lane::*count) const
    {
        std::uint64_t all = 0;
        for (const Scope::Lane &lane : lanes_)
            all += (lane.*count).load();
        return all;
    }

    Scope::Lane lanes_[lanes];
};

}  // namespace qcow2
