// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/bitmap/dirty_bits_sector.h"

#include <bit>
#include <memory>
#include <utility>

#include <boost/endian/conversion.hpp>

#include "core/base/arith.h"

namespace qcow2 {

// What was precise while it was exact stays known to be durable if there is room for that.
void DirtySector::be_exact_no_more(std::uint64_t word)
{
    const std::uint64_t before = precise(word);
    if (!(exact_.fetch_and(~of(word)) & of(word)))
        return;  // somebody else was here: that may have one more bit
    if (rest_.load())
        arm(word, before);
}

void DirtySector::make_room_for_rest()
{
    if (!rest_.load())
        rest_.store(std::make_unique<Rest>().release());
}

std::uint64_t DirtySector::durable(std::uint64_t word) const
{
    if (armed_.load() & of(word))
        return ~std::uint64_t(0);
    return exact_.load() & of(word) ? rest(word) | precise(word) : rest(word);
}

void DirtySector::fill(MutableBytes bytes) const
{
    const Words armed = armed_.load();
    const Words others = (rest_.load() ? ~Words(0) : words_precise()) & ~armed;
    for_each_bit(armed, [&](std::uint64_t word) {
        boost::endian::store_little_u64(&bytes[word * 8], ~std::uint64_t(0));
    });
    for_each_bit(others, [&](std::uint64_t word) {
        boost::endian::store_little_u64(&bytes[word * 8], precise(word) | rest(word));
    });
}

std::uint64_t DirtySector::extra() const
{
    const Words armed = armed_.load(), with_precise = words_precise();
    std::uint64_t extra = 64 * std::popcount(armed & ~with_precise);
    for_each_bit(armed & with_precise,
                 [&](std::uint64_t word) { extra += std::popcount(~precise(word)); });
    if (rest_.load())
        for_each_bit(~armed, [&](std::uint64_t word) {
            extra += std::popcount(rest(word) & ~precise(word));
        });
    return extra;
}

bool DirtySector::cool(Words words)
{
    const Words armed = armed_.load() & words;
    const bool any = cool_rest(words & ~armed);
    Words cooled = 0;
    for_each_bit(armed, [&](std::uint64_t word) {
        if (precise(word) != ~std::uint64_t(0))
            cooled |= of(word);
    });
    if (cooled == 0)
        return any;
    if (Rest *rest = rest_.load())
        for_each_bit(cooled, [&](std::uint64_t word) { (*rest)[word].store(0); });
    exact_.fetch_or(cooled);
    armed_.fetch_and(~cooled);
    if (setting_.load() != 0)
        exact_.fetch_and(~cooled);
    return true;
}

// Bits that a change has made precise meanwhile are put back: it may have seen them durable,
// and they are.
bool DirtySector::cool_rest(Words words)
{
    Rest *rest = rest_.load();
    bool any = false;
    for_each_bit(rest ? words : 0, [&](std::uint64_t word) {
        const std::uint64_t extra = (*rest)[word].load() & ~precise(word);
        if (extra == 0)
            return;
        (*rest)[word].fetch_and(~extra);
        (*rest)[word].fetch_or(extra & precise(word));
        any = true;
    });
    return any;
}

bool DirtySector::settle()
{
    Rest *rest = rest_.load();
    const Words armed = armed_.load();
    bool differs = false;
    for_each_bit(rest ? ~Words(0) : words_precise() | armed, [&](std::uint64_t word) {
        differs |= durable(word) != precise(word);
        if (rest)
            (*rest)[word].fetch_and(precise(word));
    });
    exact_.fetch_or(armed);
    armed_.store(0);
    return differs;
}

void DirtySector::settled(bool keeps_rest)
{
    exact_.store(words_precise());
    if (!keeps_rest)
        delete rest_.exchange(nullptr);
}

// What was durable stays so. (What is armed says that already.)
void DirtySector::replace(std::uint64_t word, std::uint64_t bits)
{
    if (exact_.load() & ~armed_.load() & of(word) && precise(word) != bits) {
        if (precise(word) != 0)
            arm(word, precise(word));
        exact_.fetch_and(~of(word));
    }
    precise_[word].store(bits);
}

}  // namespace qcow2
