// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// DiskDriver: does random things to a Disk and the same to a ReferenceDisk,
// and compares what can be compared at once. For the tests that need more than
// the present, it keeps a GuestHistory.
//
// What is wrong is thrown as Failed: Boost.Test's macros are for one thread.

#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/disk.h"
#include "tests/support/random.h"
#include "tests/support/reference_disk.h"

namespace qcow2::test {

class Failed : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

class DiskDriver {
public:
    struct Options {
        // Errors that a change may end with; after one each sector is old or
        // new. Anything else ends the test.
        std::vector<Errc> accepted;
        // Of such a change: whether all of it is dirty in the reference, or what is new in the
        // disk alone. (Data are placed before a bitmap that has no room is given up, B7: what is
        // refused before that has no bits.)
        bool refused_is_dirty = true;
        std::uint64_t length_max = 300000;
        // In steps of this: the ends of requests. 1, 512.
        std::uint64_t grain = 1;
        bool settle = true;
        bool flush = true;
    };

    // What an operation means for crashes: when it was, by the store's clock, which
    // never says the same twice.
    struct Clock {
        std::function<std::uint64_t()> tick;
        GuestHistory *history = nullptr;
        // Called with the time at which a flush of the guest began, and that at
        // which it had returned.
        std::function<void(std::uint64_t, std::uint64_t)> flushed;
    };

    // Drivers of several threads share the generation and have areas that do
    // not overlap.
    DiskDriver(Disk &disk, ReferenceDisk &reference, Random &random,
               std::atomic<std::uint32_t> &generation, Options options)
        : disk_(disk),
          reference_(reference),
          random_(random),
          generation_(generation),
          options_(std::move(options))
    {
        weights_ = draw_weights();
    }

    void keep_history(Clock clock) { clock_ = std::move(clock); }

    // One operation in [begin, end) of the disk.
    void step(Range area);

    void write(Range range, bool fua);
    void zero(Range range, ZeroFlags flags);
    void trim(Range range, bool fua);
    void read(Range range);
    void block_status(Range range);
    void flush();
    // False if it failed in a way that is accepted.
    bool settle();
    void cool();

    std::uint64_t failures() const { return failures_; }
    std::uint64_t steps() const { return steps_; }

private:
    std::vector<unsigned> draw_weights();
    Range draw(Range area);
    template <class Operation>
    void change(Range range, bool fua, bool exact, Operation operation);
    void end_change(Range range, bool fua, bool exact, std::uint64_t begun,
                    GuestHistory::Change recorded, const Result<void> &result);
    void zero_fast(Range range, ZeroFlags flags);
    void keep_old(Range range);
    void learn(Range range);
    void mark_what_is_new(Range range);
    void accept(const Error &error) const;
    void demand(bool condition, const std::string &what) const;
    void fetch(Range range, Buffer &found) const;

    Disk &disk_;
    ReferenceDisk &reference_;
    Random &random_;
    std::atomic<std::uint32_t> &generation_;
    const Options options_;
    std::vector<unsigned> weights_;
    Clock clock_;
    std::uint64_t failures_ = 0;
    std::uint64_t steps_ = 0;
    std::string doing_;
    Buffer old_, data_, found_;  // of a step; members, so that their memory is asked for once
    std::map<std::string, ReferenceBitmap> old_bitmaps_;  // unless refused_is_dirty
};

}  // namespace qcow2::test
