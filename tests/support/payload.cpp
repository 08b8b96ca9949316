// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/support/payload.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/base/log.h"

namespace qcow2::test {

namespace {

constexpr std::uint64_t unit_size = 16;
constexpr std::uint32_t signature = 0x51c0f11eu;

using Unit = std::array<std::uint8_t, unit_size>;

Unit unit_at(std::uint64_t offset, std::uint32_t generation)
{
    Unit unit;
    std::memcpy(unit.data(), &offset, 8);
    std::memcpy(unit.data() + 8, &generation, 4);
    std::memcpy(unit.data() + 12, &signature, 4);
    return unit;
}

}  // namespace

void fill_payload(GuestOffset offset, MutableBytes bytes, std::uint32_t generation)
{
    for (std::uint64_t done = 0; done < bytes.size();) {
        const std::uint64_t at = offset.value + done;
        const std::uint64_t in_unit = at % unit_size;
        const std::uint64_t piece =
            std::min<std::uint64_t>(unit_size - in_unit, bytes.size() - done);
        const Unit unit = unit_at(at - in_unit, generation);
        std::memcpy(bytes.data() + done, unit.data() + in_unit, piece);
        done += piece;
    }
}

Buffer payload(GuestOffset offset, std::uint64_t length, std::uint32_t generation)
{
    Buffer bytes(length);
    fill_payload(offset, bytes, generation);
    return bytes;
}

std::string describe_payload(Bytes unit)
{
    if (all_zero(unit))
        return "zeros";
    if (unit.size() == unit_size) {
        std::uint64_t offset;
        std::uint32_t generation, found;
        std::memcpy(&offset, unit.data(), 8);
        std::memcpy(&generation, unit.data() + 8, 4);
        std::memcpy(&found, unit.data() + 12, 4);
        if (found == signature)
            return "offset " + hex(offset) + " generation " + std::to_string(generation);
    }
    std::string text = "bytes";
    for (const std::uint8_t byte : unit)
        text += " " + hex(byte).substr(2);
    return text;
}

std::string payload_difference(GuestOffset offset, Bytes expected, Bytes found)
{
    if (expected.size() == found.size() &&
        std::memcmp(expected.data(), found.data(), found.size()) == 0)
        return {};
    const auto [e, f] = std::mismatch(expected.begin(), expected.end(), found.begin(), found.end());
    const std::uint64_t at = e - expected.begin();
    // The unit around it, as far as it is there.
    const std::uint64_t in_unit = (offset.value + at) % unit_size;
    const std::uint64_t begin = at > in_unit ? at - in_unit : 0;
    const std::uint64_t end = std::min(
        {at - in_unit + unit_size, std::uint64_t(expected.size()), std::uint64_t(found.size())});
    return "at guest offset " + hex(offset.value + at) + ": expected " +
           describe_payload(expected.subspan(begin, end - begin)) + ", found " +
           describe_payload(found.subspan(begin, end - begin));
}

}  // namespace qcow2::test
