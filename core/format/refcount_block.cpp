// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/refcount_block.h"

#include <cstring>

#include <boost/endian/conversion.hpp>

namespace qcow2 {

namespace {

// Entries below 8 bits fill a byte from its least significant bits upwards;
// wider ones are big-endian.
struct SubByte {
    std::size_t byte;
    unsigned shift;
    std::uint8_t mask;
};

SubByte sub_byte(std::uint32_t order, std::uint64_t index)
{
    const unsigned per_byte_bits = 3 - order;  // 8 >> order entries in a byte
    const unsigned in_byte = index & ((1u << per_byte_bits) - 1);
    return {static_cast<std::size_t>(index >> per_byte_bits), in_byte << order,
            static_cast<std::uint8_t>((1u << (1u << order)) - 1)};
}

bool holds(Bytes bytes, std::uint32_t order, std::uint64_t index)
{
    return index < (std::uint64_t(bytes.size()) << 3) >> order;
}

// A one at the bottom of each entry of a 64-bit word.
constexpr std::uint64_t lane_ones[] = {
    0xffffffffffffffff, 0x5555555555555555, 0x1111111111111111, 0x0101010101010101,
    0x0001000100010001, 0x0000000100000001, 0x0000000000000001,
};

// Whether some entry of the word is zero. Which of them does not matter, so
// neither does the order of the bytes.
bool has_zero_lane(std::uint64_t word, std::uint32_t order)
{
    const std::uint64_t ones = lane_ones[order];
    const std::uint64_t tops = ones << ((1u << order) - 1);
    return ((word - ones) & ~word & tops) != 0;
}

}  // namespace

std::uint64_t load_refcount(Bytes bytes, std::uint32_t order, std::uint64_t index)
{
    INVARIANT(order <= 6 && holds(bytes, order, index));
    if (order < 3) {
        const SubByte at = sub_byte(order, index);
        return bytes[at.byte] >> at.shift & at.mask;
    }
    const std::size_t width = std::size_t(1) << (order - 3);
    const std::uint8_t *p = bytes.data() + index * width;
    switch (order) {
    case 3: return *p;
    case 4: return boost::endian::load_big_u16(p);
    case 5: return boost::endian::load_big_u32(p);
    default: return load_be64(p);
    }
}

void store_refcount(MutableBytes bytes, std::uint32_t order, std::uint64_t index,
                    std::uint64_t value)
{
    INVARIANT(order <= 6 && holds(bytes, order, index));
    INVARIANT(order == 6 || value >> (1u << order) == 0);
    if (order < 3) {
        const SubByte at = sub_byte(order, index);
        const unsigned others = bytes[at.byte] & ~(unsigned(at.mask) << at.shift);
        bytes[at.byte] = static_cast<std::uint8_t>(others | value << at.shift);
        return;
    }
    const std::size_t width = std::size_t(1) << (order - 3);
    std::uint8_t *p = bytes.data() + index * width;
    for (std::size_t i = width; i-- > 0; value >>= 8)
        p[i] = static_cast<std::uint8_t>(value);
}

std::uint64_t find_refcount(Bytes bytes, std::uint32_t order, std::uint64_t from, std::uint64_t end,
                            bool zero)
{
    INVARIANT(order <= 6 && (end == 0 || holds(bytes, order, end - 1)));
    const std::uint64_t per_word = std::uint64_t(64) >> order;
    for (std::uint64_t i = from; i < end;) {
        // Whole words first that hold nothing of what is looked for.
        if (i % per_word == 0)
            while (end - i >= per_word) {
                std::uint64_t word;
                std::memcpy(&word, bytes.data() + i / per_word * 8, sizeof word);
                if (zero ? has_zero_lane(word, order) : word != 0)
                    break;
                i += per_word;
            }
        // Then one by one up to the next word.
        do {
            if (i == end)
                return end;
            if ((load_refcount(bytes, order, i) == 0) == zero)
                return i;
            ++i;
        } while (i % per_word != 0);
    }
    return end;
}

}  // namespace qcow2
