// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The header is the commit: whatever has landed of the sectors that were under
// way, it says what it said before, or what it is to say.

#include <algorithm>

#include "core/format/header_reader.h"
#include "core/image/image_header.h"
#include "tests/order/order.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(order_header)

namespace {

constexpr std::uint64_t sector = 512;

HeaderArea without_names(HeaderArea area)
{
    std::erase_if(area.extensions,
                  [](const Extension &e) { return e.type == ExtensionType::feature_names; });
    area.header.backing_file_offset = 0;
    return area;
}

Extension unknown(std::size_t bytes)
{
    Extension extension{ExtensionType(0x12345678), Buffer(bytes)};
    for (std::size_t i = 0; i < bytes; ++i)
        extension.data[i] = static_cast<std::uint8_t>(i * 7 + 1);
    return extension;
}

Extension names(std::size_t entries)
{
    return {ExtensionType::feature_names, Buffer(entries * 48, 'n')};
}

HeaderArea area_with(std::vector<Extension> extensions, std::size_t name_bytes,
                     std::uint32_t cluster_bits)
{
    ImageSpec spec = order_spec();
    spec.cluster_bits = cluster_bits;
    HeaderArea area = build_image(spec).area;
    area.extensions = std::move(extensions);
    for (std::size_t i = 0; i < name_bytes; ++i)
        area.backing_file_name += static_cast<char>('a' + i % 23);
    return area;
}

// A first bitmap is made, or the last one goes.
void make_first(HeaderArea &area)
{
    area.extensions =
        with_bitmaps_extension(area.extensions, BitmapsExtension{1, 32, HostOffset(0x9000)});
    area.header.autoclear_features |= autoclear::bitmaps;
}

void remove_last(HeaderArea &area)
{
    area.extensions = with_bitmaps_extension(area.extensions, std::nullopt);
    area.header.autoclear_features &= ~autoclear::bitmaps;
}

// Returns the cluster after the change; complains by BOOST_TEST.
Buffer change_and_cut_the_power(const Buffer &first, const ImageHeader::Change &change)
{
    MemoryStore memory(first.size());
    must(memory.write(0, first));
    RecordingStore store(memory);
    Buffer beginning = must(read_beginning(store));
    const HeaderArea area = must(read_header_area(store, beginning));
    GuardedStore guarded(store);
    ImageHeader header(guarded, area, beginning);
    must(header.check(change));
    must(header.commit(change));
    HeaderArea wanted = area;
    change(wanted);
    const HeaderArea before = without_names(area), after = without_names(wanted);

    Buffer now = first;
    std::uint64_t states = 0;
    const auto look = [&](const Buffer &cluster) {
        const auto decoded = decode_header_area(cluster);
        BOOST_REQUIRE_MESSAGE(decoded, words(decoded));
        const HeaderArea found = without_names(*decoded);
        BOOST_REQUIRE((found == before || found == after));
        ++states;
    };
    const Recording recording = store.recording();
    for (const Operation &o : recording.operations) {
        if (!o.writes())
            continue;
        BOOST_REQUIRE(o.offset % sector == 0 && o.data.size() % sector == 0 &&
                      o.data.size() <= 10 * sector);
        for (std::uint64_t landed = 0; landed < 1u << (o.data.size() / sector); ++landed) {
            Buffer torn = now;
            for (std::size_t i = 0; i < o.data.size() / sector; ++i)
                if (landed >> i & 1)
                    std::copy_n(o.data.begin() + static_cast<std::ptrdiff_t>(i * sector), sector,
                                torn.begin() + static_cast<std::ptrdiff_t>(o.offset + i * sector));
            look(torn);
        }
        std::copy(o.data.begin(), o.data.end(),
                  now.begin() + static_cast<std::ptrdiff_t>(o.offset));
    }
    BOOST_TEST_MESSAGE(states << " states");
    BOOST_TEST((without_names(must(decode_header_area(now))) == after));
    // Nothing is left of the way; what was behind it is as it was.
    const Buffer alone = must(encode_header_area(header.area(), now));
    const std::uint64_t end = align_up(must(decode_header_area(now)).named_end(), sector);
    for (std::uint64_t at = 0; at < now.size(); at += sector) {
        const Bytes here = sub(Bytes(now), at, sector);
        BOOST_TEST((std::ranges::equal(here, sub(Bytes(alone), at, sector)) ||
                    (at >= end && std::ranges::equal(here, sub(Bytes(first), at, sector)))),
                   at);
    }
    return now;
}

}  // namespace

BOOST_AUTO_TEST_CASE(H3_what_follows_the_header_goes_a_safe_way)
{
    const Extension format{ExtensionType::backing_format, Buffer{'r', 'a', 'w'}};
    const struct {
        const char *name;
        HeaderArea area;
    } cases[] = {
        {"a long backing file name", area_with({format}, 900, 12)},
        {"the longest backing file name", area_with({format, names(8)}, 1023, 12)},
        {"an unknown extension", area_with({unknown(600)}, 0, 12)},
        {"names of features, then one that ends behind the sector",
         area_with({names(8), unknown(600)}, 0, 16)},
        {"names of features, then a short one", area_with({names(8), unknown(40)}, 20, 16)},
        {"names of features that fill the sector", area_with({names(8), unknown(1)}, 0, 12)},
        {"many",
         area_with({format, unknown(3), unknown(700), names(7), unknown(200), unknown(1000)}, 500,
                   13)},
        {"a short one, in two sectors", area_with({unknown(392), unknown(8)}, 0, 12)},
        {"as much as is read at first", area_with({unknown(4096 - 104 - 8 - 8)}, 0, 14)},
        {"little less than is read at first", area_with({unknown(3900)}, 0, 14)},
        {"zeros at its end",
         area_with({unknown(1500), {ExtensionType(0x12345679), Buffer(2400)}}, 0, 14)},
    };
    for (const auto &c : cases)
        for (const bool rubbish : {false, true}) {
            BOOST_TEST_INFO_SCOPE(c.name << (rubbish ? ", with rubbish behind it" : ""));
            Buffer first =
                must(encode_header_area(c.area, Buffer(c.area.header.geometry().cluster_size())));
            const auto end = align_up(must(decode_header_area(first)).named_end(), sector);
            if (rubbish)
                std::fill(first.begin() + static_cast<std::ptrdiff_t>(end), first.end(),
                          std::uint8_t(0xa5));
            const Buffer made = change_and_cut_the_power(first, make_first);
            change_and_cut_the_power(made, remove_last);
        }
}

BOOST_AUTO_TEST_CASE(H3_without_room_for_it_the_change_is_refused)
{
    const HeaderArea area = area_with({unknown(600)}, 0, 10);
    const Buffer first = must(encode_header_area(area, Buffer(1024)));
    MemoryStore memory(1024);
    must(memory.write(0, first));
    RecordingStore store(memory);
    GuardedStore guarded(store);
    ImageHeader header(guarded, must(decode_header_area(first)), first);
    for (const Result<void> &done : {header.check(make_first), header.commit(make_first)}) {
        BOOST_REQUIRE(!done);
        BOOST_TEST((done.error().code == Errc::no_space));
        BOOST_TEST(done.error().what ==
                   "header: its extensions and the name of the backing file are too long for a "
                   "cluster of 1024 bytes to be changed without a moment in which a crash would "
                   "harm the image");
    }
    BOOST_TEST(store.recording().operations.empty());
}

BOOST_AUTO_TEST_SUITE_END()
