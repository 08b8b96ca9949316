// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Gate: many pass at once, and one can wait until all who were inside have
// left, or keep everybody out, or let some of them in meanwhile. (The first part is SRCU;
// gate.cpp tells how.)
//
// Passing costs two atomic operations, each in the lane of the processor
// (lane.h), and never blocks while the gate is open.
// It is used twice: the engine's gate (rule L1: structural operations exclude
// requests) and the readers' gate (rule W3: a cluster is not used again while
// somebody who looked up its old mapping is still at it).
//
// A thread inside must not drain or close the same gate.

#pragma once

#include <atomic>
#include <cstdint>

#include "core/base/lane.h"
#include "core/base/mutex.h"

namespace qcow2 {

class Gate {
public:
    // Who closed the gate may set it ajar. Then some pass, and others wait until it is open.
    enum class Door : unsigned { open, ajar, closed };

    explicit Gate(Rank rank) : mutex_(rank) {}
    ~Gate();
    Gate(const Gate &) = delete;
    Gate &operator=(const Gate &) = delete;

    // Passes; waits while the gate is closed or, if `widest` is Door::open, ajar. The ticket,
    // which tells lane and generation, is given back.
    unsigned enter(Door widest = Door::ajar);
    void leave(unsigned ticket);

    // Returns when everybody who was inside at the call has left. Others may
    // pass meanwhile. Any thread that is not inside.
    void drain() EXCLUDES(mutex_);

    // Keeps newcomers waiting and returns when nobody is inside. One closes at
    // a time; others wait. Whoever was kept waiting passes when the gate is
    // opened, before it is closed the next time: who closes again and again
    // starves nobody.
    void close() EXCLUDES(mutex_);
    void open() EXCLUDES(mutex_);

    // For the one who closed it, and before he opens it: lets those in who pass a gate that is
    // ajar; keeps newcomers waiting again, and returns when nobody is inside.
    void set_ajar() EXCLUDES(mutex_);
    void shut() EXCLUDES(mutex_);

private:
    // Threads that are kept waiting and pass at the same time: with this ticket, when this
    // number of openings has been passed.
    struct Sleepers {
        std::uint64_t waiting = 0;
        std::uint64_t openings = 0;
        unsigned ticket = 0;
    };

    // How many came in by this lane and are inside, in two generations: those
    // who came before a drain began, and the others.
    struct alignas(lane_bytes) Lane {
        std::atomic<std::uint64_t> inside[2] = {0, 0};
    };
    std::atomic<std::uint64_t> &inside(unsigned ticket)
    {
        return lanes_[ticket / 2].inside[ticket % 2];
    }
    bool empty(unsigned generation) const;
    void drain_locked() REQUIRES(mutex_);
    unsigned sleep(Sleepers &like_me) REQUIRES(mutex_);
    void let_in(Sleepers &sleepers) REQUIRES(mutex_);
    bool lets(Door widest) const { return door_.load() <= widest; }

    Lane lanes_[lanes];
    std::atomic<unsigned> generation_{0};
    std::atomic<Door> door_{Door::open};
    std::atomic<bool> waiting_{false};  // somebody wants to hear of a zero

    Mutex mutex_;
    Condition changed_;
    bool draining_ GUARDED_BY(mutex_) = false;
    // Who waits until it is open, and until it is ajar at least.
    Sleepers sleepers_[2] GUARDED_BY(mutex_);
};

// Passes a gate for the current scope.
class Passage {
public:
    explicit Passage(Gate &gate, Gate::Door widest = Gate::Door::ajar)
        : gate_(gate), ticket_(gate.enter(widest))
    {
    }
    ~Passage() { gate_.leave(ticket_); }
    // Leaves, and passes again when the gate is open, not ajar.
    void wait_until_open()
    {
        gate_.leave(ticket_);
        ticket_ = gate_.enter(Gate::Door::open);
    }
    Passage(const Passage &) = delete;
    Passage &operator=(const Passage &) = delete;

private:
    Gate &gate_;
    unsigned ticket_;
};

// Has a gate to itself for the current scope.
class Exclusive {
public:
    explicit Exclusive(Gate &gate) : gate_(gate) { gate_.close(); }
    ~Exclusive() { gate_.open(); }
    Exclusive(const Exclusive &) = delete;
    Exclusive &operator=(const Exclusive &) = delete;

private:
    Gate &gate_;
};

// Sets a gate ajar for the current scope, inside that of an Exclusive.
class Ajar {
public:
    explicit Ajar(Gate &gate) : gate_(gate) { gate_.set_ajar(); }
    ~Ajar() { gate_.shut(); }
    Ajar(const Ajar &) = delete;
    Ajar &operator=(const Ajar &) = delete;

private:
    Gate &gate_;
};

}  // namespace qcow2
