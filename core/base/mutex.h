// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The locks of the engine and their order (rules L).
//
// A thread that holds a lock may take only those whose rank is below (later in
// the list). Mutex checks that on every lock in debug builds
// (QCOW2_CHECK_LOCKS) and clang checks the annotations.

#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define QCOW2_ANNOTATE(x) __attribute__((x))
#else
#define QCOW2_ANNOTATE(x)
#endif
#define CAPABILITY(x) QCOW2_ANNOTATE(capability(x))
#define SCOPED_CAPABILITY QCOW2_ANNOTATE(scoped_lockable)
#define GUARDED_BY(x) QCOW2_ANNOTATE(guarded_by(x))
#define REQUIRES(...) QCOW2_ANNOTATE(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) QCOW2_ANNOTATE(locks_excluded(__VA_ARGS__))
#define ACQUIRE(...) QCOW2_ANNOTATE(acquire_capability(__VA_ARGS__))
#define RELEASE(...) QCOW2_ANNOTATE(release_capability(__VA_ARGS__))
#define NO_THREAD_SAFETY_ANALYSIS QCOW2_ANNOTATE(no_thread_safety_analysis)

namespace qcow2 {

// Every lock of the engine, outermost first.
//
//   rank         protects                                      across store I/O?
//   served_image opening, idling and closing the one image     yes
//   files        backup files being laid out                   yes
//   gate         L1: nothing moves under a request             yes
//   ending       which backups end, and tidying up after them  yes
//   claims       blocks being kept for backups                 yes (a range lock)
//   keepings     the list of what is kept for backups          no
//   looking      who is just looking at that list              no
//   standing     why a backup is broken                        no
//   served       which snapshots are being read                no
//   ranges       L2: guest clusters being allocated            yes (a range lock)
//   tables       L2: L2 tables being made or copied            yes (a range lock)
//   marks        in_use on disk, storing of bitmaps            yes
//   turn         B3: writes of bitmap data and tables          yes
//   cycle        one write-back at a time                      yes
//   readers      W3: who still reads by an old mapping         no
//   mapping      L4: L1 table, cached L2 tables                no
//   allocator    L5: refcounts, free search, reserve           yes
//   refcounts    cached refcount blocks                        no
//   header       cluster 0                                     yes
//   decompressed clusters kept decompressed                    no
//   bitmaps      L6: bits in memory                            no
//   growth       W8: from which end the file has grown         yes
//   store        the store's own, below everything             yes
// clang-format off
enum class Rank {
    served_image, files, gate, ending, claims, keepings, looking, standing, served, ranges,
    tables, marks, turn, cycle, readers, mapping, allocator, refcounts, header, decompressed,
    bitmaps, growth, store,
};
// clang-format on

class CAPABILITY("mutex") Mutex {
public:
    explicit Mutex(Rank rank) : rank_(rank) {}
    Mutex(const Mutex &) = delete;
    Mutex &operator=(const Mutex &) = delete;

    void lock() ACQUIRE();
    void unlock() RELEASE();

private:
    std::mutex mutex_;
    [[maybe_unused]] const Rank rank_;
};

// Holds a Mutex for the current scope.
class SCOPED_CAPABILITY Locked {
public:
    explicit Locked(Mutex &mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
    ~Locked() RELEASE() { mutex_.unlock(); }
    Locked(const Locked &) = delete;
    Locked &operator=(const Locked &) = delete;

private:
    Mutex &mutex_;
};

// Lets go of a Mutex that is held, for the current scope: it is held again
// afterwards, whatever happened. (clang is not told, it has no word for it.)
class Unlocked {
public:
    explicit Unlocked(Mutex &mutex) NO_THREAD_SAFETY_ANALYSIS : mutex_(mutex) { mutex_.unlock(); }
    ~Unlocked() NO_THREAD_SAFETY_ANALYSIS { mutex_.lock(); }
    Unlocked(const Unlocked &) = delete;
    Unlocked &operator=(const Unlocked &) = delete;

private:
    Mutex &mutex_;
};

// Waits for a condition under a Mutex.
class Condition {
public:
    void wait(Mutex &mutex) REQUIRES(mutex) { condition_.wait(mutex); }
    // Until then, at most.
    void wait_until(Mutex &mutex, std::chrono::steady_clock::time_point until) REQUIRES(mutex)
    {
        condition_.wait_until(mutex, until);
    }
    void notify_all() { condition_.notify_all(); }

    template <class Predicate>
    void wait(Mutex &mutex, Predicate predicate) REQUIRES(mutex)
    {
        while (!predicate())
            condition_.wait(mutex);
    }

private:
    std::condition_variable_any condition_;
};

}  // namespace qcow2
