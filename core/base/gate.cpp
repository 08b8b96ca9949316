// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A gate is the kernel's SRCU (sleepable read-copy-update) with a door in front.
//
// A thread that passes counts itself in, and later out. The counters are many, a lane for each
// processor, so that no two of them write to one cache line; and each lane has two, one for
// each of two generations. The ticket tells which one was taken, since a thread may be on
// another processor when it leaves.
//
// drain() turns the generation over, so that newcomers count in the other half, and waits
// until the old half is zero in all lanes. It looks at them one after the other, while threads
// come and go. That is no snapshot, and need not be one: into the old half nobody comes any
// more, so a lane that was seen empty stays empty. But a thread may have read the generation
// just before it was turned over, and count itself in just after. Therefore enter() reads it
// again, after it has counted, and leaves and tries again if it has changed. So every thread
// that passes was counted in what was then the current generation, and any drain that turns it
// over later waits for it.
//
// Two generations are enough, as drains go one at a time: before a half is used again the
// drain that turned it over has waited until nobody was in it.
//
// close() shuts the door and drains. A thread that finds it shut counts itself out and sleeps.
// open() counts all sleepers in, in their name, before it opens the door, and they wake up
// with a ticket that is theirs already. So a gate that is closed again at once waits for them,
// and a thread that closes it again and again starves nobody.
//
// set_ajar() is an opening for one kind of sleepers, and shut() a closing that needs not wait
// for another one to end: the gate is still its owner's, so nobody else closes it. A ticket is
// read by who wakes up, after the lock was free; it must be the same then. It is: the next that
// lets in the same kind has first closed the gate, which waits for him.
//
// leave() wakes the thread that drains only if there is one: it takes the counter down and then
// looks at the flag; drain() sets the flag before it looks at the counters. All atomics are
// sequentially consistent, as each such argument ("either drain() sees my count or I see its
// flag") needs one order for all. tests/unit/base/gate_schedules_test.cpp goes
// through the schedules of a few threads, one by one.

#include "core/base/gate.h"

#include "core/base/invariant.h"

namespace qcow2 {

Gate::~Gate() { INVARIANT(empty(0) && empty(1)); }

// Lane by lane, while people come and go, is good enough for a generation that
// was turned over: whoever stays inside came before that, so that in no lane
// there comes one anew.
bool Gate::empty(unsigned generation) const
{
    for (const Lane &lane : lanes_)
        if (lane.inside[generation].load() != 0)
            return false;
    return true;
}

unsigned Gate::enter(Door widest)
{
    for (;;) {
        const unsigned generation = generation_.load() & 1;
        const unsigned ticket = this_lane() * 2 + generation;
        ++inside(ticket);
        // The generation first. If it is still ours, the next drain to turn it
        // over waits for us, for it sees our count; and no other drain begins
        // before that one has ended. So if the gate is open after that, whoever
        // closes it later comes to an end only when we have left. (The other
        // way round: between the two looks a gate may be closed whose drain is
        // the second since we took our ticket, and waits for the other half.)
        if ((generation_.load() & 1) == generation && lets(widest))
            return ticket;
        leave(ticket);
        if (!lets(widest)) {
            Locked lock(mutex_);
            if (lets(widest))
                continue;
            return sleep(sleepers_[widest == Door::ajar]);
        }
    }
}

unsigned Gate::sleep(Sleepers &like_me)
{
    ++like_me.waiting;
    changed_.wait(mutex_,
                  [&like_me, opening = like_me.openings] { return like_me.openings != opening; });
    // Still the ticket of our opening: a later one comes when we have left.
    return like_me.ticket;
}

void Gate::leave(unsigned ticket)
{
    // Either drain() sees our zero, or we see that it waits.
    if (--inside(ticket) == 0 && waiting_.load()) {
        Locked lock(mutex_);
        changed_.notify_all();
    }
}

void Gate::drain_locked()
{
    changed_.wait(mutex_, [this]() NO_THREAD_SAFETY_ANALYSIS { return !draining_; });
    draining_ = true;
    waiting_ = true;
    // Nobody is left of the generation before the current one: the drain that
    // turned it over waited for them.
    const unsigned generation = generation_.fetch_add(1) & 1;
    changed_.wait(mutex_, [this, generation] { return empty(generation); });
    waiting_ = false;
    draining_ = false;
    changed_.notify_all();
}

void Gate::drain()
{
    Locked lock(mutex_);
    drain_locked();
}

void Gate::close()
{
    Locked lock(mutex_);
    changed_.wait(mutex_, [this] { return door_.load() == Door::open; });
    door_ = Door::closed;
    drain_locked();
}

// No drain begins while we hold the lock: the generation stays.
void Gate::let_in(Sleepers &sleepers)
{
    sleepers.ticket = this_lane() * 2 + (generation_.load() & 1);
    inside(sleepers.ticket) += sleepers.waiting;
    sleepers.waiting = 0;
    ++sleepers.openings;
}

void Gate::open()
{
    Locked lock(mutex_);
    for (Sleepers &sleepers : sleepers_)
        let_in(sleepers);
    door_ = Door::open;
    changed_.notify_all();
}

void Gate::set_ajar()
{
    Locked lock(mutex_);
    let_in(sleepers_[1]);
    door_ = Door::ajar;
    changed_.notify_all();
}

void Gate::shut()
{
    Locked lock(mutex_);
    door_ = Door::closed;
    drain_locked();
}

}  // namespace qcow2
