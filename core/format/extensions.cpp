// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/extensions.h"

#include <algorithm>
#include <cstring>

#include "core/base/log.h"
#include "core/format/findings.h"
#include "core/format/limits.h"

namespace qcow2 {

namespace {

constexpr std::size_t record_head = 8;         // type and length
constexpr std::size_t feature_name_size = 48;  // kind, bit, 46 bytes of name
constexpr std::size_t bitmaps_record_size = record_head + sizeof(on_disk::BitmapsExtension);

std::uint32_t load_be32(const std::uint8_t *p)
{
    on_disk::be32 word;
    std::memcpy(&word, p, sizeof word);
    return word.value();
}

void store_be32(std::uint8_t *p, std::uint32_t v)
{
    const on_disk::be32 word(v);
    std::memcpy(p, &word, sizeof word);
}

std::string type_name(ExtensionType type)
{
    switch (type) {
    case ExtensionType::end: return "end";
    case ExtensionType::backing_format: return "backing format";
    case ExtensionType::feature_names: return "feature names";
    case ExtensionType::bitmaps: return "bitmaps";
    case ExtensionType::luks: return "LUKS header";
    case ExtensionType::data_file: return "data file name";
    }
    return formatted("type {:#x}", static_cast<std::uint32_t>(type));
}

// Of these a second one would contradict the first.
bool stands_alone(ExtensionType type)
{
    return type == ExtensionType::backing_format || type == ExtensionType::bitmaps ||
           type == ExtensionType::luks || type == ExtensionType::data_file;
}

// Where the extensions end at the latest.
std::uint64_t area_end(const Header &header)
{
    return header.backing_file_offset != 0 ? header.backing_file_offset
                                           : header.geometry().cluster_size();
}

// Bytes past the end of the file are zeros: there the area has ended.
Result<std::vector<Extension>> decode_extensions(Bytes cluster, std::uint64_t begin,
                                                 std::uint64_t end)
{
    std::vector<Extension> extensions;
    for (std::uint64_t at = begin; at < end;) {
        if (!fits(at, record_head, cluster.size())) {
            if (at < cluster.size() && !all_zero(cluster.subspan(at)))
                return finding(Finding::extension_truncated, "at {:#x}", at);
            break;
        }
        const auto type = ExtensionType(load_be32(cluster.data() + at));
        const std::uint32_t length = load_be32(cluster.data() + at + 4);
        if (type == ExtensionType::end)
            break;
        const std::string where = formatted("{} at {:#x}", type_name(type), at);
        at += record_head;
        if (!fits(at, length, std::min<std::uint64_t>(end, cluster.size())))
            return finding(Finding::extension_truncated, where);
        if (stands_alone(type))
            for (const Extension &other : extensions)
                if (other.type == type)
                    return finding(Finding::extension_duplicate, where);
        const Bytes data = sub(cluster, at, length);
        extensions.push_back({type, Buffer(data.begin(), data.end())});
        at += align_up(length, 8);
    }
    return extensions;
}

// The name that the image itself gives to an incompatible feature.
std::string feature_name(const std::vector<Extension> &extensions, unsigned bit)
{
    for (const Extension &e : extensions) {
        if (e.type != ExtensionType::feature_names)
            continue;
        for (std::size_t at = 0; at + feature_name_size <= e.data.size(); at += feature_name_size) {
            if (e.data[at] != 0 || e.data[at + 1] != bit)
                continue;
            std::string name;
            for (std::size_t i = at + 2; i < at + feature_name_size && e.data[i] != 0; ++i)
                name += static_cast<char>(e.data[i]);
            return name;
        }
    }
    return {};
}

// The error of decode_header, with the feature's name if that is what it is
// about and the image has one. Nothing of the header is trusted here.
Error with_feature_name(Error error, Bytes cluster)
{
    if (cluster.size() < sizeof(on_disk::Header) || load_be32(cluster.data() + 4) != 3)
        return error;
    on_disk::Header raw;
    std::memcpy(&raw, cluster.data(), sizeof raw);
    const std::uint64_t unknown = raw.incompatible_features.value() & ~incompatible::known;
    const std::uint32_t length = raw.header_length.value();
    if (unknown == 0 || length < header_length_v3_min || error.code != Errc::unsupported)
        return error;
    const auto extensions = decode_extensions(cluster, length, cluster.size());
    if (!extensions)
        return error;
    const unsigned bit = std::countr_zero(unknown);
    const std::string name = feature_name(*extensions, bit);
    if (name.empty())
        return error;
    return finding(Finding::incompatible_feature_unknown, "incompatible feature bit {}: {}", bit,
                   quote(name));
}

void append(Buffer &out, const Extension &extension)
{
    const std::size_t at = out.size();
    out.resize(at + extension.encoded_size());
    store_be32(out.data() + at, static_cast<std::uint32_t>(extension.type));
    store_be32(out.data() + at + 4, static_cast<std::uint32_t>(extension.data.size()));
    std::copy(extension.data.begin(), extension.data.end(), out.begin() + at + record_head);
}

// The feature name table makes room for the bitmaps extension, and gets it back
// (H2). QEMU takes a table of any length; the last entry is cut in the middle,
// which tells that the table was cut.
void cut_feature_names(std::vector<Extension> &extensions)
{
    for (Extension &e : extensions)
        if (e.type == ExtensionType::feature_names && e.data.size() >= bitmaps_record_size)
            return e.data.resize(e.data.size() - bitmaps_record_size);
}

void grow_feature_names(std::vector<Extension> &extensions)
{
    for (Extension &e : extensions)
        if (e.type == ExtensionType::feature_names &&
            e.data.size() % feature_name_size == feature_name_size - bitmaps_record_size)
            return e.data.resize(e.data.size() + bitmaps_record_size);
}

}  // namespace

Result<BitmapsExtension> decode_bitmaps_extension(Bytes data, const Geometry &geometry)
{
    on_disk::BitmapsExtension raw;
    if (data.size() != sizeof raw)
        return finding(Finding::bitmaps_extension_length_wrong, "{} bytes", data.size());
    std::memcpy(&raw, data.data(), sizeof raw);

    BitmapsExtension e;
    e.nb_bitmaps = raw.nb_bitmaps.value();
    e.bitmap_directory_size = raw.bitmap_directory_size.value();
    e.bitmap_directory_offset = HostOffset(raw.bitmap_directory_offset.value());
    if (e.nb_bitmaps == 0 || e.nb_bitmaps > limits::bitmaps_max)
        return finding(Finding::bitmap_count_wrong, "it is {}, of 1 to {}", e.nb_bitmaps,
                       limits::bitmaps_max);
    if (raw.reserved.value() != 0)
        return finding(Finding::bitmaps_extension_reserved, "it is {:#x}", raw.reserved.value());
    // A record has 24 bytes at least and ends at a multiple of 8.
    if (e.bitmap_directory_size < std::uint64_t(e.nb_bitmaps) * 24 ||
        e.bitmap_directory_size > limits::bitmap_directory_bytes_max ||
        e.bitmap_directory_size % 8 != 0)
        return finding(Finding::bitmap_directory_size_wrong, "it is {}, for {} bitmaps",
                       e.bitmap_directory_size, e.nb_bitmaps);
    const std::string at = formatted("it is at {:#x}", e.bitmap_directory_offset.value);
    if (!geometry.is_aligned(e.bitmap_directory_offset))
        return finding(Finding::bitmap_directory_unaligned, at);
    if (!fits(e.bitmap_directory_offset.value, e.bitmap_directory_size, std::uint64_t(1) << 63))
        return finding(Finding::bitmap_directory_past_end, at);
    if (e.bitmap_directory_offset.value == 0)
        return finding(Finding::tables_overlap, "the bitmap directory lies over the header");
    return e;
}

Extension encode_bitmaps_extension(const BitmapsExtension &e)
{
    on_disk::BitmapsExtension raw;
    raw.nb_bitmaps = e.nb_bitmaps;
    raw.reserved = 0;
    raw.bitmap_directory_size = e.bitmap_directory_size;
    raw.bitmap_directory_offset = e.bitmap_directory_offset.value;
    Extension extension{ExtensionType::bitmaps, Buffer(sizeof raw)};
    std::memcpy(extension.data.data(), &raw, sizeof raw);
    return extension;
}

const Extension *HeaderArea::find(ExtensionType type) const
{
    for (const Extension &e : extensions)
        if (e.type == type)
            return &e;
    return nullptr;
}

Result<HeaderArea> decode_header_area(Bytes cluster)
{
    HeaderArea area;
    auto header = decode_header(cluster);
    if (!header)
        return with_feature_name(std::move(header).error(), cluster);
    area.header = *header;
    cluster = cluster.first(
        std::min<std::uint64_t>(cluster.size(), area.header.geometry().cluster_size()));
    if (cluster.size() < area.header.header_length)
        return finding(Finding::header_truncated, "its length is {}", cluster.size());

    area.extensions =
        TRY(decode_extensions(cluster, area.header.header_length, area_end(area.header)));

    if (area.header.backing_file_offset != 0) {
        // decode_header has checked it against the cluster, not against the file.
        if (!fits(area.header.backing_file_offset, area.header.backing_file_size, cluster.size()))
            return finding(Finding::backing_file_name_out_of_range, "the file ends at {:#x}",
                           cluster.size());
        const Bytes name =
            sub(cluster, area.header.backing_file_offset, area.header.backing_file_size);
        area.backing_file_name.assign(name.begin(), name.end());
    }
    return area;
}

Result<Buffer> encode_header_area(const HeaderArea &area, Bytes old)
{
    Header header = area.header;
    const std::uint64_t cluster_size = header.geometry().cluster_size();
    INVARIANT(header.header_length <= cluster_size);

    Buffer out(header.header_length);
    std::copy_n(old.begin(), std::min(old.size(), out.size()), out.begin());
    for (const Extension &e : area.extensions)
        append(out, e);

    // The area ends with an empty record, or where the name or the cluster
    // puts an end to it.
    const std::string &name = area.backing_file_name;
    const std::uint64_t used = out.size();
    const auto ends_well_at = [used](std::uint64_t end) {
        return used == end || used + record_head <= end;
    };
    if (name.empty()) {
        header.backing_file_offset = 0;
        header.backing_file_size = 0;
    } else {
        const std::uint64_t place = header.backing_file_offset;
        if (place == 0 || !ends_well_at(place) || !fits(place, name.size(), cluster_size))
            header.backing_file_offset = used + record_head;
        header.backing_file_size = static_cast<std::uint32_t>(name.size());
    }
    // QEMU writes the header anew when it opens an image with bitmaps, always
    // with an empty record and the name behind it: without room for that it
    // could open the image for reading only.
    const bool room_for_qemu =
        !area.find(ExtensionType::bitmaps) || fits(used + record_head, name.size(), cluster_size);
    if (!ends_well_at(cluster_size) || !room_for_qemu ||
        !fits(header.backing_file_offset, name.size(), cluster_size))
        return Error(Errc::no_space, "the header, its extensions and the name of the backing file "
                                     "do not fit in a cluster");
    out.resize(cluster_size);
    std::copy(name.begin(), name.end(), out.begin() + header.backing_file_offset);
    encode_header(header, out);
    return out;
}

std::vector<Extension> with_bitmaps_extension(const std::vector<Extension> &extensions,
                                              const std::optional<BitmapsExtension> &bitmaps)
{
    std::vector<Extension> result;
    bool had_one = false;
    if (bitmaps)
        result.push_back(encode_bitmaps_extension(*bitmaps));
    for (const Extension &e : extensions) {
        if (e.type == ExtensionType::bitmaps)
            had_one = true;
        else
            result.push_back(e);
    }
    if (bitmaps && !had_one)
        cut_feature_names(result);
    if (!bitmaps && had_one)
        grow_feature_names(result);
    return result;
}

std::uint64_t HeaderArea::named_end() const
{
    std::uint64_t end = header.header_length + record_head;
    for (const Extension &e : extensions)
        end += e.encoded_size();
    return std::max(end, header.backing_file_offset + backing_file_name.size());
}

std::vector<Range> HeaderArea::ranges_that_matter() const
{
    std::vector<Range> ranges = {{0, header.header_length}};
    std::uint64_t at = header.header_length;
    for (const Extension &e : extensions) {
        ranges.push_back(
            Range::of(at, e.type == ExtensionType::feature_names ? record_head : e.encoded_size()));
        at += e.encoded_size();
    }
    ranges.push_back({at, std::max(at, std::min(at + record_head, area_end(header)))});
    ranges.push_back(Range::of(header.backing_file_offset, backing_file_name.size()));
    return ranges;
}

HeaderArea behind_a_gap(HeaderArea area, std::uint64_t place)
{
    std::uint64_t at = area.header.header_length;
    auto front = area.extensions.begin();
    if (front != area.extensions.end() && front->type == ExtensionType::bitmaps)
        at += front++->encoded_size();
    Extension gap{ExtensionType::feature_names, {}};
    INVARIANT(place % 8 == 0 && at + record_head <= place);
    // The names that there are begin where they do, as far as they fit.
    for (const Extension &e : area.extensions)
        if (e.type == ExtensionType::feature_names && gap.data.empty())
            gap.data = e.data;
    gap.data.resize(place - at - record_head);
    std::vector<Extension> rest(front, area.extensions.end());
    std::erase_if(rest, [](const Extension &e) { return e.type == ExtensionType::feature_names; });
    area.extensions.erase(front, area.extensions.end());
    area.extensions.push_back(std::move(gap));
    area.extensions.insert(area.extensions.end(), rest.begin(), rest.end());
    area.header.backing_file_offset = 0;  // right behind them
    return area;
}

}  // namespace qcow2
