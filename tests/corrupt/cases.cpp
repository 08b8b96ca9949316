// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The cases, in the order of format/findings.h. One table, and so one function, that is
// longer than others.

#include "tests/corrupt/cases.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/format/limits.h"
#include "tests/support/image_builder.h"
#include "tests/support/must.h"
#include "tests/support/payload.h"

namespace corrupt_test {

namespace {

// --- Sound images.

constexpr std::uint64_t copied = std::uint64_t(1) << 63;
constexpr std::uint64_t compressed = std::uint64_t(1) << 62;
constexpr std::uint64_t far_away = std::uint64_t(1) << 40;
constexpr std::uint64_t cluster_size = 4096;
constexpr std::uint64_t bad_offset = bad_cluster * cluster_size;

ImageSpec plain()
{
    ImageSpec spec;
    spec.cluster_bits = 12;
    spec.size = 4 << 20;  // two L2 tables of 512 entries
    spec.clusters = {{0, Preset::data},
                     {1, Preset::data},
                     {2, Preset::zero},
                     {5, Preset::zero_with_cluster},
                     {bad_cluster, Preset::data}};
    spec.feature_names = 0;  // so the first extension is at 112
    return spec;
}

ImageSpec version_2()
{
    ImageSpec spec = plain();
    spec.version = 2;
    spec.clusters = {{0, Preset::data}, {bad_cluster, Preset::data}};
    return spec;
}

ImageSpec with_snapshot()
{
    ImageSpec spec = plain();
    spec.snapshot = true;
    spec.clusters[7] = Preset::shared_data;
    spec.clusters[8] = Preset::snapshot_data;
    return spec;
}

ImageSpec with_bitmaps(const std::vector<std::string> &names = {"b0"}, Buffer extra_data = {})
{
    ImageSpec spec = plain();
    for (const std::string &name : names) {
        BitmapSpec bitmap;
        bitmap.name = name;
        bitmap.granularity_bits = 12;
        bitmap.set = {{0, 3}};
        bitmap.extra_data = extra_data;
        spec.bitmaps.push_back(bitmap);
    }
    return spec;
}

ImageSpec with_extension(ExtensionType type, const std::string &text, unsigned times = 1)
{
    ImageSpec spec = plain();
    spec.more_extensions.assign(times, {type, Buffer(text.begin(), text.end())});
    return spec;
}

ImageSpec without_clusters(ImageSpec spec)
{
    spec.clusters.clear();
    return spec;
}

// With subclusters: 16K clusters and no data.
ImageSpec empty_16k()
{
    ImageSpec spec = plain();
    spec.cluster_bits = 14;
    spec.size = 16 << 20;  // one L2 table of 1024 entries of 16 bytes
    spec.clusters.clear();
    return spec;
}

// --- What is made wrong, field by field.

using MakeWrong = std::function<std::string(Patient &)>;

MakeWrong header_32(std::uint64_t at, std::uint32_t value, const std::string &place)
{
    return [=](Patient &p) {
        p.put_32(at, value);
        return place;
    };
}

MakeWrong header_64(std::uint64_t at, std::uint64_t value, const std::string &place)
{
    return [=](Patient &p) {
        p.put(at, value);
        return place;
    };
}

// A field that holds an offset: half a cluster further.
MakeWrong unaligned(std::uint64_t at)
{
    return [=](Patient &p) {
        p.put(at, p.word(at) + 512);
        return hex(p.word(at));
    };
}

MakeWrong far(std::uint64_t at) { return header_64(at, far_away, hex(far_away)); }

// The second L1 entry, and the entry of the bad cluster.
MakeWrong l1_entry(std::uint64_t value, bool added = true)
{
    return [=](Patient &p) {
        p.put(p.l1(1), added ? p.word(p.l1(1)) + value : value);
        return hex(p.word(p.l1(1)) & ~(added ? 0 : copied));
    };
}

MakeWrong l2_entry(std::uint64_t value, bool added = false)
{
    return [=](Patient &p) {
        p.put(p.l2(bad_cluster), added ? p.word(p.l2(bad_cluster)) + value : value);
        return "guest offset " + hex(bad_offset);
    };
}

MakeWrong refcount_table_entry(std::uint64_t index, std::uint64_t value, bool added)
{
    return [=](Patient &p) {
        const std::uint64_t table = p.header().refcount_table_offset.value;
        p.put(table + index * 8, added ? p.word(table) + value : value);
        return "refcount table at " + hex(table);
    };
}

// In the first directory entry, so many bytes from its beginning.
MakeWrong bitmap_byte(std::uint64_t at, std::uint8_t value)
{
    return [=](Patient &p) {
        p.put_byte(p.directory() + at, value);
        return "directory entry at " + hex(p.directory());
    };
}

MakeWrong bitmap_table(std::uint64_t value)
{
    return [=](Patient &p) {
        const std::uint64_t table = p.bitmap().bitmap_table_offset.value;
        p.put(table, value);
        return "bitmap table at " + hex(table) + ", entry 0";
    };
}

// The extension of the bitmaps is the first one; what follows its type and length.
constexpr std::uint64_t extension = 112 + 8;

std::string make_l2_subclusters_wrong(Patient &p)
{
    p.put(72, 1 << 4);
    const std::uint64_t table = p.new_cluster(), data = p.new_cluster();
    p.put(p.l1(0), copied | table);
    p.put(table + bad_cluster * 16, copied | data);
    p.put(table + bad_cluster * 16 + 8, 0x0000000100000001);  // allocated, and zero
    p.set_refcount(table, 1);
    p.set_refcount(data, 1);
    return "guest offset " + hex(bad_cluster * p.cluster_size());
}

std::string make_compressed_data_broken(Patient &p)
{
    const std::uint64_t host = p.host(bad_cluster);
    must(p.store().write(host, Buffer(cluster_size, 0xff)));  // no kind of deflate block
    p.put(p.l2(bad_cluster), compressed | std::uint64_t(7) << 58 | host);
    return "host offset " + hex(host);
}

// 513 records with an id and a name of 64 KiB each.
std::string make_snapshot_table_too_large(Patient &p)
{
    const std::uint64_t table = p.new_cluster();
    constexpr std::uint64_t records = 513, record = 40 + 16 + 2 * 0xffff;
    must(p.store().grow(table + (65 << 20)));
    for (std::uint64_t i = 0; i < records; ++i) {
        const std::uint64_t at = table + i * align_up(record, 8);
        p.put(at + 8, 0xffffffff);
        p.put(at + 32, 16);
    }
    p.put_32(60, records);
    p.put(64, table);
    return "snapshot table at " + hex(table);
}

// The first cluster of the data file, at another place of the disk, too.
std::string make_data_file_offset_wrong(Patient &p)
{
    p.put(72, 4);
    const std::uint64_t table = p.new_cluster();
    p.put(p.l1(1), copied | table);
    p.put(p.l2(bad_cluster), copied);
    p.set_refcount(table, 1);
    return "guest offset " + hex(bad_offset);
}

std::string make_backing_file(Patient &p)
{
    const std::string name = "base.raw";
    must(p.store().write(1024, Buffer(name.begin(), name.end())));
    p.put(8, 1024);
    p.put_32(16, static_cast<std::uint32_t>(name.size()));
    return "'base.raw'";
}

std::string second_name(Patient &p)
{
    p.put_byte(p.directory() + 32 + 24 + 1, '0');
    return "directory entry at " + hex(p.directory() + 32);
}

}  // namespace

const std::map<Finding, Case> &cases()
{
    using enum Finding;
    const auto data_file = [] { return with_extension(ExtensionType::data_file, "elsewhere"); };
    const auto backing = [] { return with_extension(ExtensionType::backing_format, "raw"); };
    static const std::map<Finding, Case> all = {
        // The header.
        {not_qcow2, {Fate::refused, plain(), header_32(0, 0x514649fc, "")}},
        {header_truncated, {Fate::refused, plain(), header_32(0, 0x514649fb, "100"), true, 100}},
        {version_unknown, {Fate::refused, plain(), header_32(4, 4, "it is 4")}},
        {cluster_bits_out_of_range, {Fate::refused, plain(), header_32(20, 22, "it is 22")}},
        {refcount_order_out_of_range, {Fate::refused, plain(), header_32(96, 7, "it is 7")}},
        {header_length_wrong, {Fate::refused, plain(), header_32(100, 103, "it is 103")}},
        {incompatible_feature_unknown, {Fate::refused, plain(), header_64(72, 1 << 5, "bit 5")}},
        {dirty_bit_set, {Fate::read_only, plain(), header_64(72, 1, ""), false}},
        {corrupt_bit_set, {Fate::read_only, plain(), header_64(72, 2, ""), false}},
        {external_data_file, {Fate::refused, data_file(), header_64(72, 4, "'elsewhere'"), false}},
        {data_file_name_missing, {Fate::refused, plain(), header_64(72, 4, ""), false}},
        {compression_type_unknown,
         {Fate::refused, plain(), header_64(104, std::uint64_t(7) << 56, "it is 7")}},
        {compression_type_mismatch,
         {Fate::refused, plain(), header_64(104, std::uint64_t(1) << 56, "type 1, bit 0")}},
        {encrypted, {Fate::refused, plain(), header_32(32, 1, "crypt_method 1"), false}},
        {Finding::backing_file, {Fate::refused, backing(), make_backing_file, false}},
        {backing_file_name_out_of_range,
         {Fate::refused, plain(),
          [](Patient &p) {
              p.put_32(16, 8);
              p.put(8, cluster_size - 7);
              return hex(cluster_size - 7);
          }}},
        {disk_size_too_large,
         {Fate::refused, plain(), header_64(24, ~std::uint64_t(0), "18446744073709551615")}},

        // Extensions.
        {extension_truncated,
         {Fate::refused, plain(), header_64(112, 0x123456780000ffff, hex(112))}},
        {extension_duplicate,
         {Fate::refused, with_extension(ExtensionType::backing_format, "raw", 2),
          [](Patient &) { return hex(112 + 16); }}},
        {bitmaps_extension_length_wrong,
         {Fate::read_only, with_bitmaps(), header_32(116, 16, "16 bytes")}},
        {bitmaps_extension_missing, {Fate::read_only, plain(), header_64(88, 1, "")}},
        {bitmaps_extension_reserved,
         {Fate::read_only, with_bitmaps(), header_32(extension + 4, 1, "it is 0x1")}},
        {bitmap_count_wrong, {Fate::read_only, with_bitmaps(), header_32(extension, 0, "it is 0")}},
        {bitmap_directory_size_wrong,
         {Fate::read_only, with_bitmaps(), header_64(extension + 8, 0, "it is 0")}},
        {bitmap_directory_unaligned, {Fate::read_only, with_bitmaps(), unaligned(extension + 16)}},
        {bitmap_directory_past_end, {Fate::read_only, with_bitmaps(), far(extension + 16)}},

        // Tables named by the header.
        {l1_table_unaligned, {Fate::refused, plain(), unaligned(40)}},
        {l1_table_too_large, {Fate::refused, plain(), header_32(36, 0x400001, "4194305 entries")}},
        {l1_table_too_small,
         {Fate::served, plain(), header_32(36, 1, ""), true, 0, 512 * cluster_size}},
        {l1_table_past_end, {Fate::refused, plain(), far(40)}},
        {l1_table_missing, {Fate::refused, plain(), header_64(40, 0, "")}},
        {refcount_table_unaligned, {Fate::refused, plain(), unaligned(48)}},
        {refcount_table_empty, {Fate::refused, plain(), header_32(56, 0, "")}},
        {refcount_table_too_large, {Fate::refused, plain(), header_32(56, 0x801, "2049 clusters")}},
        {refcount_table_past_end, {Fate::read_only, plain(), far(48)}},
        {refcount_table_missing, {Fate::refused, plain(), header_64(48, 0, "")}},
        {snapshot_count_too_large, {Fate::refused, plain(), header_32(60, 65537, "65537")}},
        {snapshot_table_unaligned, {Fate::refused, with_snapshot(), unaligned(64)}},
        {snapshot_table_past_end, {Fate::read_only, with_snapshot(), far(64)}},
        {Finding::snapshot_table_too_large,
         {Fate::read_only, plain(), make_snapshot_table_too_large, true, 0, UINT64_MAX, 64 << 20}},
        {snapshot_extra_data_too_large,
         {Fate::read_only, with_snapshot(),
          [](Patient &p) {
              p.put_32(p.snapshots() + 36, 1025);
              return "snapshot table at " + hex(p.snapshots());
          }}},
        {snapshot_extra_data_too_small,
         {Fate::served, with_snapshot(),
          [](Patient &p) {
              p.put_32(p.snapshots() + 36, 8);
              return "the L1 table of snapshot 0 at " + hex(p.word(p.snapshots()));
          }}},
        {snapshot_l1_wrong,
         {Fate::served, with_snapshot(),
          [](Patient &p) {
              p.put(p.snapshots(), far_away);
              return "the L1 table of snapshot 0 at " + hex(far_away);
          }}},
        {tables_overlap,
         {Fate::read_only, with_bitmaps(),
          [](Patient &p) {
              const std::uint64_t l1 = p.header().l1_table_offset.value;
              p.put(p.directory(), l1);
              return "bitmap 'b0': " + std::string(sentence_of(tables_overlap)) +
                     " (bitmap table at " + hex(l1) + ")";
          }}},

        // L1, L2, refcounts.
        {l1_entry_reserved_bits, {Fate::read_only_here, plain(), l1_entry(1)}},
        {l1_entry_unaligned, {Fate::read_only_here, plain(), l1_entry(512)}},
        {l2_table_past_end, {Fate::read_only_here, plain(), l1_entry(copied | far_away, false)}},
        {l2_entry_reserved_bits, {Fate::bad_here, plain(), l2_entry(2, true)}},
        {l2_entry_unaligned, {Fate::bad_here, plain(), l2_entry(512, true)}},
        {l2_entry_zero_flag_in_v2, {Fate::bad_here, version_2(), l2_entry(1, true)}},
        {l2_entry_compressed_copied, {Fate::bad_here, plain(), l2_entry(compressed, true)}},
        {Finding::l2_subclusters_wrong, {Fate::bad_here, empty_16k(), make_l2_subclusters_wrong}},
        {Finding::compressed_data_broken,
         {Fate::bad_here, plain(), make_compressed_data_broken, false}},
        {data_cluster_past_end, {Fate::bad_here, plain(), l2_entry(copied | far_away)}},
        {data_cluster_is_metadata,
         {Fate::not_written, plain(),
          [](Patient &p) {
              const std::uint64_t l1 = p.header().l1_table_offset.value;
              p.put(p.l2(bad_cluster), copied | l1);
              return "guest offset " + hex(bad_offset) + ", host offset " + hex(l1);
          },
          true, 0, bad_offset}},
        {refcount_table_entry_reserved_bits,
         {Fate::read_only, plain(), refcount_table_entry(0, 1, true)}},
        {refcount_block_unaligned, {Fate::read_only, plain(), refcount_table_entry(0, 512, true)}},
        {Finding::data_file_offset_wrong,
         {.fate = Fate::bad_here,
          .spec = without_clusters(with_extension(ExtensionType::data_file, "data")),
          .make_wrong = make_data_file_offset_wrong,
          .with_data_file = true}},
        {refcount_block_past_end,
         {Fate::read_only, plain(), refcount_table_entry(1, far_away, false)}},
        {refcount_too_low,
         {Fate::not_written, plain(),
          [](Patient &p) {
              const std::uint64_t table = p.word(p.l1(0)) & entry_offset_mask;
              p.set_refcount(table, 0);
              return hex(table);
          }}},
        {refcount_too_high,
         {Fate::served, plain(),
          [](Patient &p) {
              const std::uint64_t cluster = p.new_cluster();
              p.set_refcount(cluster, 1);
              return hex(cluster);
          }}},
        {copied_flag_wrong,
         {Fate::served, plain(),
          [](Patient &p) {
              p.put(p.l2(bad_cluster), p.host(bad_cluster));
              return hex(p.host(bad_cluster));
          }}},

        // Bitmaps.
        {bitmap_directory_entry_truncated,
         {Fate::read_only, with_bitmaps(),
          [](Patient &p) {
              p.put_byte(p.directory() + 19, 0xff);
              return "bitmap directory at " + hex(p.directory()) + ": bitmap 0, 0x0 "
"into the directory";
          }}},
        {bitmap_directory_trailing_bytes,
         {Fate::read_only, with_bitmaps(), header_64(extension + 8, 40, "not at 0x28")}},
        {bitmap_directory_padding,
         {Fate::served, with_bitmaps(),
          [](Patient &p) {
              p.put_byte(p.directory() + 31, 1);
              return "bitmap 'b0'";
          }}},
        {bitmap_flags_reserved, {Fate::read_only, with_bitmaps(), bitmap_byte(15, 0x12)}},
        {bitmap_type_unknown, {Fate::read_only, with_bitmaps(), bitmap_byte(16, 2)}},
        {bitmap_granularity_out_of_range, {Fate::read_only, with_bitmaps(), bitmap_byte(17, 8)}},
        {bitmap_name_size_wrong,
         {Fate::read_only, with_bitmaps(),
          [](Patient &p) {
              p.put_byte(p.directory() + 19, 0);
              p.put(extension + 8, 24);
              return "directory entry at " + hex(p.directory());
          }}},
        {bitmap_name_duplicate, {Fate::read_only, with_bitmaps({"b0", "b1"}), second_name}},
        {bitmap_extra_data_unknown,
         {Fate::read_only, with_bitmaps({"b0"}, Buffer(8, 0x5a)), bitmap_byte(15, 2)}},
        {bitmap_table_unaligned, {Fate::read_only, with_bitmaps(), bitmap_byte(6, 2)}},
        {bitmap_table_missing,
         {Fate::read_only, with_bitmaps(),
          [](Patient &p) {
              p.put(p.directory(), 0);
              return "directory entry at " + hex(p.directory());
          }}},
        {bitmap_table_past_end,
         {Fate::read_only, with_bitmaps(),
          [](Patient &p) {
              p.put(p.directory(), far_away);
              return "bitmap 'b0': " + std::string(sentence_of(bitmap_table_past_end)) +
                     " (bitmap table at " + hex(far_away) + ")";
          }}},
        {bitmap_table_size_wrong,
         {Fate::read_only, with_bitmaps(),
          [](Patient &p) {
              p.put_32(p.directory() + 8, 2);
              return "bitmap table at " + hex(p.bitmap().bitmap_table_offset.value) +
                     ": 2 entries, not 1";
          }}},
        {bitmap_table_entry_reserved_bits, {Fate::read_only, with_bitmaps(), bitmap_table(2)}},
        {bitmap_table_entry_unaligned, {Fate::read_only, with_bitmaps(), bitmap_table(0x4200)}},
        {bitmap_data_past_end, {Fate::read_only, with_bitmaps(), bitmap_table(far_away)}},
    };
    return all;
}

}  // namespace corrupt_test
