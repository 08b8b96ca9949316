// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// DirtySector: 4096 bits of DirtyBits, those of a sector of the file, and what is durable of them.
//
// What is precise has a bit for each of them. What is durable need not, for nearly always one
// of these holds for a word of 64 bits, and that takes a bit for each word:
//
//   armed    all of the word is durable.
//   exact    of what is precise in it, all is durable: it came from the file, was stored, or was
//            armed and is cooled.
//   neither  nothing is known to be durable, as a bit has become precise that is not. The arming
//            that this bit needs makes the word armed.
//
// For what cannot be said so there are words, made when they are needed first (rest_): bits that
// are durable besides, whatever is said of the word. That is where less than a word is armed (a
// region of few granules, or the end of the bitmap), and where other bits take the place of those
// that were precise.
//
// Without a lock it holds that of what is found durable the file has every bit, now and until
// that is armed, or nobody is inside:
//
// * Who sets bits, set(), takes `exact` away first, for what it sets is not durable. Who finds
//   a bit precise, and then its word exact, knows that nobody has set it since the word is exact.
// * Who cools armed words, cool(), says that they are exact, then that they are not armed, and
//   reads then what is precise in them, for the file. What is precise by that time was durable
//   and stays so. Who sets a bit after they were said to be exact takes that away again. But one
//   may have begun before, and set its bit after the words were read: others would find
//   it precise and its word exact. So who sets bits is counted meanwhile (setting_). If that is
//   not 0 once the words are no more armed, none of them is exact; the next change that comes
//   there arms them again. If it is 0, whoever began before has set its bit.
// * Bits of the rest are taken away before one looks whether they are precise meanwhile, and put
//   back. Who sets a bit looks afterwards whether it is durable; so one sees the other.
//
// (All these operations are in one total order: memory_order_seq_cst. tests/model has them in
// every order that two or three threads can take.)

#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "core/base/bytes.h"

namespace qcow2 {

class DirtySector {
public:
    static constexpr std::uint64_t word_count = 64;
    // Bit n: word n.
    using Words = std::uint64_t;

    DirtySector() = default;
    ~DirtySector() { delete rest_.load(); }
    DirtySector(const DirtySector &) = delete;
    DirtySector &operator=(const DirtySector &) = delete;

    // Before others see it: what the file has.
    void load(std::uint64_t word, std::uint64_t bits)
    {
        precise_[word].store(bits, std::memory_order_relaxed);
        exact_.fetch_or(of(word), std::memory_order_relaxed);
    }

    // --- Any thread.

    std::uint64_t precise(std::uint64_t word) const { return precise_[word].load(); }
    // Those that have a precise bit, or will have one at once, or had one.
    Words words_precise() const { return words_precise_.load(); }
    // Before its first bit is set. True if it was not noted yet.
    bool note_precise(std::uint64_t word)
    {
        return !(words_precise_.load(std::memory_order_relaxed) & of(word)) &&
               !(words_precise_.fetch_or(of(word)) & of(word));
    }
    // They are precise from now on. The word was noted.
    void set(std::uint64_t word, std::uint64_t bits)
    {
        setting_.fetch_add(1);
        if (exact_.load() & of(word))
            be_exact_no_more(word);
        precise_[word].fetch_or(bits);
        setting_.fetch_sub(1);
    }
    void use(std::uint64_t word)
    {
        if (!(used_.load(std::memory_order_relaxed) & of(word)))
            used_.fetch_or(of(word), std::memory_order_relaxed);
    }
    // Of bits that were found precise, or set, before.
    bool is_durable(std::uint64_t word, std::uint64_t bits) const
    {
        return (armed_.load() & of(word)) || (exact_.load() & of(word)) ||
               (bits & ~rest(word)) == 0;
    }

    // --- For the holder of the turn.

    // Words that may have bits which are precise and not durable.
    Words in_doubt() const { return words_precise_.load() & ~armed_.load() & ~exact_.load(); }
    std::uint64_t missing(std::uint64_t word) const { return precise(word) & ~rest(word); }
    // Whether these bits are armed, as far as that is known.
    bool are_armed(Words words) const { return (words & ~armed_.load()) == 0; }
    bool are_armed(std::uint64_t word, std::uint64_t bits) const
    {
        return are_armed(of(word)) || (bits & ~rest(word)) == 0;
    }
    // All of these words is durable, or of one word these bits, for which there is room.
    void arm(Words words) { armed_.fetch_or(words); }
    void make_room_for_rest();
    void arm(std::uint64_t word, std::uint64_t bits) { (*rest_.load())[word].fetch_or(bits); }

    // What is to stand in the file, where there were zeros: all that is precise, or that a change
    // may rely on.
    void fill(MutableBytes bytes) const;
    // How many bits are durable and not precise.
    std::uint64_t extra() const;
    // Whether one of these words was used since the last time.
    bool take_used(Words words)
    {
        const Words used = used_.load(std::memory_order_relaxed) & words;
        return used != 0 && (used_.fetch_and(~used, std::memory_order_relaxed), true);
    }
    // What is extra in these words is not durable any more. True if that was something.
    bool cool(Words words);

    // --- Nobody else is inside.

    // What is extra is not durable any more. True if the file has not exactly what is precise.
    bool settle();
    // Now it has. The room for the rest is given back, or kept.
    void settled(bool keeps_rest);
    // Bits that are neither durable nor among these are not precise any more.
    void forget(std::uint64_t word, std::uint64_t but_for)
    {
        precise_[word].fetch_and(durable(word) | but_for);
    }
    // None of its words is noted, until they are anew: what is precise is to be replaced. There
    // is room for the rest.
    void begin_replacing() { words_precise_.store(0); }
    void replace(std::uint64_t word, std::uint64_t bits);
    std::uint64_t durable(std::uint64_t word) const;

private:
    using Rest = std::array<std::atomic<std::uint64_t>, word_count>;

    static constexpr Words of(std::uint64_t word) { return Words(1) << word; }
    std::uint64_t rest(std::uint64_t word) const
    {
        const Rest *rest = rest_.load();
        return rest ? (*rest)[word].load() : 0;
    }
    void be_exact_no_more(std::uint64_t word);
    bool cool_rest(Words words);

    std::atomic<Words> armed_{0};
    std::atomic<Words> exact_{0};
    std::atomic<Words> used_{0};  // by a change, since take_used()
    std::atomic<Words> words_precise_{0};
    std::atomic<Rest *> rest_{nullptr};  // there until settled()
    std::atomic<std::uint32_t> setting_{0};
    std::array<std::atomic<std::uint64_t>, word_count> precise_{};
};

}  // namespace qcow2
