// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Keepings: what has been kept for the frozen disks, newest first. And the
// questions that are asked of them: whether a change may go down, where a reader
// finds a block, whether anybody relies on what was kept.
//
// All questions take blocks, not none, and answer for some of them, from the
// first on: at least one. Any thread, no lock, no I/O. Which keepings there are
// does not change in this object: CurrentKeepings leads to the one that holds now.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/backup/kept_blocks.h"
#include "core/backup/needed.h"
#include "core/backup/scratch.h"
#include "core/backup/standing.h"
#include "core/base/gate.h"
#include "core/base/mutex.h"
#include "core/base/range.h"

namespace qcow2 {

// What has been kept for one frozen disk.
struct Keeping {
    Keeping(std::shared_ptr<Standing> standing, std::uint64_t size,
            std::unique_ptr<Scratch> scratch, std::shared_ptr<const Needed> needed)
        : standing(std::move(standing)),
          size(size),
          scratch(std::move(scratch)),
          needed(std::move(needed)),
          kept(div_ceil(size, block_bytes)),
          given_back(div_ceil(size, block_bytes))
    {
    }

    std::uint64_t blocks() const { return kept.size(); }
    // The last block may end with the disk.
    Range bytes_of(Range blocks) const
    {
        return {blocks.begin * block_bytes, std::min(blocks.end * block_bytes, size)};
    }
    Needed::Run needed_run(Range blocks) const
    {
        return needed ? needed->run(blocks) : Needed::Run{true, blocks.length()};
    }

    const std::shared_ptr<Standing> standing;
    const std::uint64_t size;  // bytes
    const std::unique_ptr<Scratch> scratch;
    const std::shared_ptr<const Needed> needed;  // nullptr: all
    KeptBlocks kept;

    std::atomic<bool> said_unreadable{false};  // the person was told of a first block

    // For the one who tidies up: nothing more is kept in it, and what of its data the scratch
    // has no more.
    bool quiet = false;
    KeptBlocks given_back;
};

class Keepings : public std::enable_shared_from_this<Keepings> {
public:
    using List = std::vector<std::shared_ptr<Keeping>>;

    explicit Keepings(List newest_first) : list_(std::move(newest_first)) {}
    Keepings(const Keepings &) = delete;
    Keepings &operator=(const Keepings &) = delete;

    const List &newest_first() const { return list_; }
    // nullptr: it is not there any more.
    const Keeping *find(const Standing &of) const;

    // The keeping that has to keep the blocks before they may change; nullptr: none. They need
    // not lie inside any frozen disk.
    struct Need {
        Keeping *keeping = nullptr;
        std::uint64_t blocks = 0;
    };
    Need need(Range blocks) const;

    // Where the frozen disk's blocks are. They lie inside it.
    struct Source {
        enum class From {
            live,
            scratch,
            zeros,       // nowhere: it reads as zeros
            unreadable,  // nowhere: it could not be read when it was overwritten
            not_needed,  // nobody has kept it, and nobody will
            gone,        // the backup has ended
        };
        From from = From::gone;
        std::uint64_t blocks = 0;
        const Keeping *keeping = nullptr;  // whose scratch
    };
    Source source(const Standing &of, Range blocks) const;

    // Whether a frozen disk that is older than this keeping, and true, finds the blocks in it.
    // They are kept there.
    struct Reliance {
        bool relied_on = false;
        std::uint64_t blocks = 0;
    };
    Reliance reliance(std::size_t number, Range blocks) const;

private:
    const List list_;
};

// The keepings that there are now. One thread changes them at a time, under the mutex; any
// number look, without a lock.
class CurrentKeepings {
public:
    CurrentKeepings();

    // Answers a question that needs neither time nor a lock, and does not count as having them.
    template <class Question>
    auto ask(Question question) const
    {
        Passage passage(looking_);
        return question(static_cast<const Keepings &>(*current_.load()));
    }
    // For who needs time.
    std::shared_ptr<const Keepings> take() const
    {
        Passage passage(looking_);
        return current_.load()->shared_from_this();
    }

    // The list that `change` makes of the current one. What was current is given back: where
    // the caller destroys it, what is in it alone ends.
    template <class Change>
    std::shared_ptr<const Keepings> put(Change change) EXCLUDES(mutex_)
    {
        Locked lock(mutex_);
        Keepings::List list = change(static_cast<const Keepings &>(*owner_));
        std::shared_ptr<Keepings> keepings = std::make_shared<Keepings>(std::move(list));
        current_ = keepings.get();
        owner_.swap(keepings);
        looking_.drain();  // nobody is just about to take the old one
        return keepings;
    }

private:
    Mutex mutex_{Rank::keepings};
    mutable Gate looking_{Rank::looking};  // a thread inside waits for nobody
    std::shared_ptr<Keepings> owner_ GUARDED_BY(mutex_);
    std::atomic<Keepings *> current_;
};

}  // namespace qcow2
