// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// BitVector: a fixed number of bits. As bytes, bit n is in byte n / 8, the
// least significant bit first: the order of a bitmap on disk.
//
// No lock, no I/O. Ranges count bits and lie inside size().

#pragma once

#include <cstdint>
#include <vector>

#include <boost/endian/conversion.hpp>

#include "core/base/bytes.h"
#include "core/base/range.h"

namespace qcow2 {

class BitVector {
public:
    BitVector() = default;
    explicit BitVector(std::uint64_t bits, bool value = false);

    std::uint64_t size() const { return size_; }

    bool test(std::uint64_t bit) const
    {
        INVARIANT(bit < size_);
        return boost::endian::little_to_native(words_[bit / word_bits]) >> (bit % word_bits) & 1;
    }
    void set(Range bits);
    void clear(Range bits);
    void set(std::uint64_t bit) { set(Range::of(bit, 1)); }
    void clear(std::uint64_t bit) { clear(Range::of(bit, 1)); }

    // The first bit at or after `from` that is (not) set; size() if none.
    std::uint64_t next_set(std::uint64_t from) const;
    std::uint64_t next_clear(std::uint64_t from) const;

    // How many bits are set.
    std::uint64_t count() const { return count({0, size_}); }
    std::uint64_t count(Range bits) const;

    // True of an empty range, too.
    bool all(Range bits) const { return next_clear_before(bits.begin, bits.end) >= bits.end; }
    bool none(Range bits) const { return next_set_before(bits.begin, bits.end) >= bits.end; }
    bool all() const { return all({0, size_}); }
    bool none() const { return none({0, size_}); }

    // Sets what is set in the other one, of the same size.
    void or_with(const BitVector &other);

    // The bits as they stand on disk: ceil(size() / 8) bytes, the bits behind
    // the last one zero. Valid as long as the vector is.
    Bytes bytes() const;
    // Takes the bits from bytes as they stand on disk, from the byte `offset`
    // of the vector's on. Bits behind the last one are dropped.
    void load(std::uint64_t offset, Bytes bytes);

    friend bool operator==(const BitVector &, const BitVector &) = default;

private:
    static constexpr std::uint64_t word_bits = 64;

    template <bool value>
    void fill(Range bits);
    template <bool value>
    std::uint64_t next(std::uint64_t from, std::uint64_t end) const;
    std::uint64_t next_set_before(std::uint64_t from, std::uint64_t end) const;
    std::uint64_t next_clear_before(std::uint64_t from, std::uint64_t end) const;
    void clear_tail();

    std::uint64_t size_ = 0;  // bits
    // As they stand on disk: the low byte of each comes first. The bits behind
    // the last one are zero at all times.
    std::vector<std::uint64_t> words_;
};

}  // namespace qcow2
