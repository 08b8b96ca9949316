// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The one list of all that can be wrong with an image, or needed by it: name,
// what the caller can do (Errc), and the sentence for the person at the
// terminal. Decoders return findings as errors, check counts them, and
// tests/corrupt has a case for each.

#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "core/base/result.h"

namespace qcow2 {

#define QCOW2_FINDINGS(X)                                                                          \
    /* the header */                                                                               \
    X(not_qcow2, invalid, "not a qcow2 image: the magic bytes 'QFI\\xfb' are missing")             \
    X(header_truncated, corrupt, "the file ends inside the header")                                \
    X(version_unknown, unsupported, "the version is neither 2 nor 3")                              \
    X(cluster_bits_out_of_range, unsupported, "cluster_bits is out of range (9 to 21)")            \
    X(refcount_order_out_of_range, corrupt, "refcount_order is out of range (0 to 6)")             \
    X(header_length_wrong, corrupt,                                                                \
      "header_length is out of range: a multiple of 8 from 104 to the cluster size")               \
    X(incompatible_feature_unknown, unsupported, "the image needs a feature that is not known")    \
    X(dirty_bit_set, unsupported,                                                                  \
      "the image was not closed cleanly (dirty bit); 'qemu-img check -r all' repairs it")          \
    X(corrupt_bit_set, unsupported,                                                                \
      "the image is marked as corrupt; 'qemu-img check -r all' may repair it")                     \
    X(external_data_file, unsupported,                                                             \
      "the image has an external data file, and nobody said that it may be opened")                \
    X(data_file_name_missing, corrupt, "the image does not name its external data file")           \
    X(compression_type_unknown, unsupported, "the compression type is not known")                  \
    X(compression_type_mismatch, corrupt,                                                          \
      "compression type field and feature bit contradict each other")                              \
    X(encrypted, unsupported,                                                                      \
      "the image is encrypted (crypt_method), not supported; nbdkit's luks filter is for whole "   \
      "LUKS disks, not for this")                                                                  \
    X(backing_file, unsupported,                                                                   \
      "the image has a backing file, and nobody said that it may be opened")                       \
    X(backing_file_name_out_of_range, corrupt,                                                     \
      "the name of the backing file is longer than 1023 bytes, or not in the header cluster")      \
    X(disk_size_too_large, unsupported, "the disk is larger than an L1 table of 32 MiB reaches")   \
    /* extensions */                                                                               \
    X(extension_truncated, corrupt, "a header extension runs past the end of its area")            \
    X(extension_duplicate, corrupt, "a header extension is there twice")                           \
    X(bitmaps_extension_length_wrong, corrupt, "the bitmaps extension is not 24 bytes long")       \
    X(bitmaps_extension_missing, corrupt,                                                          \
      "autoclear bit 0 (bitmaps) is set, but there is no bitmaps extension")                       \
    X(bitmaps_extension_reserved, corrupt, "the reserved field of the bitmaps extension is not 0") \
    X(bitmap_count_wrong, corrupt, "nb_bitmaps is 0 or too large")                                 \
    X(bitmap_directory_size_wrong, corrupt,                                                        \
      "bitmap_directory_size is out of range: a multiple of 8, from 24 for each bitmap to "        \
      "67107840")                                                                                  \
    X(bitmap_directory_unaligned, corrupt, "the bitmap directory is not cluster aligned")          \
    X(bitmap_directory_past_end, corrupt, "the bitmap directory runs past the end of the file")    \
    /* tables named by the header */                                                               \
    X(l1_table_unaligned, corrupt, "the L1 table is not cluster aligned")                          \
    X(l1_table_too_large, corrupt, "the L1 table is larger than 32 MiB")                           \
    X(l1_table_too_small, corrupt, "the L1 table does not cover the disk")                         \
    X(l1_table_past_end, corrupt, "the L1 table runs past the end of the file")                    \
    X(l1_table_missing, corrupt, "the L1 table lies over the header")                              \
    X(refcount_table_unaligned, corrupt, "the refcount table is not cluster aligned")              \
    X(refcount_table_empty, corrupt, "the refcount table has no cluster")                          \
    X(refcount_table_too_large, corrupt, "the refcount table is larger than 8 MiB")                \
    X(refcount_table_past_end, corrupt, "the refcount table runs past the end of the file")        \
    X(refcount_table_missing, corrupt, "the refcount table lies over the header")                  \
    X(snapshot_count_too_large, unsupported, "the image has more than 65536 snapshots")            \
    X(snapshot_table_unaligned, corrupt, "the snapshot table is not cluster aligned")              \
    X(snapshot_table_past_end, corrupt, "the snapshot table runs past the end of the file")        \
    X(snapshot_table_too_large, corrupt, "the snapshot table is larger than 64 MiB")               \
    X(snapshot_extra_data_too_large, corrupt, "a snapshot has more than 1024 bytes of extra data") \
    X(snapshot_extra_data_too_small, corrupt,                                                      \
      "a snapshot of a version 3 image has less than 16 bytes of extra data")                      \
    X(snapshot_l1_wrong, corrupt,                                                                  \
      "the L1 table of a snapshot is unaligned, too large or past the end")                        \
    X(tables_overlap, corrupt, "two tables of the image share a cluster")                          \
    /* L1, L2, refcounts */                                                                        \
    X(l1_entry_reserved_bits, corrupt, "an L1 entry has reserved bits set")                        \
    X(l1_entry_unaligned, corrupt, "an L1 entry names an L2 table that is not cluster aligned")    \
    X(l2_table_past_end, corrupt, "an L2 table runs past the end of the file")                     \
    X(l2_entry_reserved_bits, corrupt, "an L2 entry has reserved bits set")                        \
    X(l2_entry_unaligned, corrupt, "an L2 entry names a cluster that is not cluster aligned")      \
    X(l2_entry_zero_flag_in_v2, corrupt, "an L2 entry of a version 2 image has the zero flag")     \
    X(l2_entry_compressed_copied, corrupt, "an L2 entry of a compressed cluster has bit 63 set")   \
    X(l2_subclusters_wrong, corrupt, "the subcluster bits of an L2 entry contradict each other")   \
    X(compressed_data_broken, corrupt, "compressed data are broken")                               \
    X(data_cluster_past_end, corrupt, "a cluster lies past the end of the file")                   \
    X(data_cluster_is_metadata, corrupt, "a guest cluster is mapped onto metadata of the image")   \
    X(data_file_offset_wrong, corrupt,                                                             \
      "a cluster is not at the place in the external data file that it has in the disk")           \
    X(refcount_table_entry_reserved_bits, corrupt, "a refcount table entry has reserved bits set") \
    X(refcount_block_unaligned, corrupt, "a refcount block is not cluster aligned")                \
    X(refcount_block_past_end, corrupt, "a refcount block lies past the end of the file")          \
    X(refcount_too_low, corrupt, "a cluster is used more often than its refcount says")            \
    X(refcount_too_high, corrupt, "a cluster is used less often than its refcount says (a leak)")  \
    X(copied_flag_wrong, corrupt,                                                                  \
      "bit 63 says refcount 1 and the refcount is another, or the reverse")                        \
    /* bitmaps */                                                                                  \
    X(bitmap_directory_entry_truncated, corrupt,                                                   \
      "a bitmap directory entry runs past the directory")                                          \
    X(bitmap_directory_trailing_bytes, corrupt, "the bitmap directory is longer than its entries") \
    X(bitmap_directory_padding, corrupt, "the padding of a bitmap directory entry is not zero")    \
    X(bitmap_flags_reserved, corrupt, "the flags of a bitmap have reserved bits set")              \
    X(bitmap_type_unknown, unsupported, "the type of a bitmap is not known")                       \
    X(bitmap_granularity_out_of_range, unsupported,                                                \
      "the granularity of a bitmap is not 512 to 2G")                                              \
    X(bitmap_name_size_wrong, corrupt, "the name of a bitmap is empty or longer than 1023 bytes")  \
    X(bitmap_name_duplicate, corrupt, "two bitmaps have the same name")                            \
    X(bitmap_extra_data_unknown, unsupported, "a bitmap has extra data of an unknown kind")        \
    X(bitmap_table_unaligned, corrupt, "the table of a bitmap is not cluster aligned")             \
    X(bitmap_table_missing, corrupt, "a bitmap has no table")                                      \
    X(bitmap_table_past_end, corrupt, "the table of a bitmap runs past the end of the file")       \
    X(bitmap_table_size_wrong, corrupt,                                                            \
      "the table of a bitmap does not have the size the disk needs")                               \
    X(bitmap_table_entry_reserved_bits, corrupt, "a bitmap table entry has reserved bits set")     \
    X(bitmap_table_entry_unaligned, corrupt, "a bitmap table entry names an unaligned cluster")    \
    X(bitmap_data_past_end, corrupt, "the data of a bitmap lie past the end of the file")

enum class Finding {
#define X(name, code, sentence) name,
    QCOW2_FINDINGS(X)
#undef X
};

// How many there are.
#define X(name, code, sentence) +1
constexpr std::size_t finding_kinds = QCOW2_FINDINGS(X);
#undef X

std::string_view name_of(Finding finding);  // "l1_table_unaligned"
std::string_view sentence_of(Finding finding);
Errc code_of(Finding finding);

// "the L1 table is not cluster aligned" + " (" + detail + ")".
Error finding(Finding finding, std::string_view detail = {});

template <class First, class... Rest>
Error finding(Finding what, Format<First, Rest...> detail, const First &first, const Rest &...rest)
{
    return finding(what, formatted(detail, first, rest...));
}

}  // namespace qcow2
