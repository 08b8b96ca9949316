// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/control/types.h"

namespace qcow2::types {

namespace {

using Kind = Type::Kind;
constexpr bool optional = true;

constexpr Type object(std::string_view name, std::span<const Member> members)
{
    Type type = {Kind::object, name};
    type.members = members;
    return type;
}

constexpr Type array(std::string_view name, const Type &element)
{
    Type type = {Kind::array, name};
    type.element = &element;
    return type;
}

constexpr Type words(std::string_view name, std::span<const std::string_view> values)
{
    Type type = {Kind::enumeration, name};
    type.values = values;
    return type;
}

}  // namespace

constinit const Type string = {Kind::string, "str"};
constinit const Type integer = {Kind::integer, "int"};
constinit const Type unsigned_32 = {Kind::unsigned_32, "int"};
constinit const Type boolean = {Kind::boolean, "bool"};
constinit const Type any = {Kind::any, "any"};
constinit const Type nothing = object("Nothing", {});

namespace {
constinit const Type strings = array("[str]", string);
}  // namespace

// --- Arguments.

namespace {
// There are none.
constinit const Type capability = words("QMPCapability", {});
constinit const Type capabilities = array("[QMPCapability]", capability);
const Member in_capabilities[] = {{"enable", capabilities, optional}};

const Member in_nodes[] = {{"flat", boolean, optional}};

const Member in_bitmap[] = {{"node", string}, {"name", string}};

const Member in_bitmap_add[] = {{"node", string},
                                {"name", string},
                                {"granularity", unsigned_32, optional},
                                {"persistent", boolean, optional},
                                {"disabled", boolean, optional}};

}  // namespace

constinit const Type capabilities_arguments = object("QMPCapabilities", in_capabilities);
constinit const Type nodes_arguments = object("QueryNamedBlockNodes", in_nodes);
constinit const Type bitmap = object("BlockDirtyBitmap", in_bitmap);
constinit const Type bitmap_add = object("BlockDirtyBitmapAdd", in_bitmap_add);

namespace {
const Type *const name_or_bitmap[] = {&string, &bitmap};
constinit const Type merge_source = {
    Kind::alternate, "BlockDirtyBitmapOrStr", {}, nullptr, {}, {}, {}, name_or_bitmap};
constinit const Type merge_sources = array("[BlockDirtyBitmapOrStr]", merge_source);
const Member in_bitmap_merge[] = {{"node", string}, {"target", string}, {"bitmaps", merge_sources}};

const Member in_snapshot[] = {{"device", string}, {"name", string}};
const Member in_snapshot_delete[] = {
    {"device", string}, {"id", string, optional}, {"name", string, optional}};
const Member in_snapshot_revert[] = {{"id-or-name", string}};
const Member in_resize[] = {
    {"device", string, optional}, {"node-name", string, optional}, {"size", integer}};

constexpr std::string_view backup_modes[] = {"full", "incremental", "auto"};
constinit const Type backup_mode = words("BackupMode", backup_modes);
const Member in_backing[] = {{"file", string}, {"format", string, optional}};
constinit const Type backing = object("BackupBacking", in_backing);
const Member in_backup_begin[] = {
    {"id", string, optional},       {"bitmap", string, optional},
    {"bitmaps", strings, optional}, {"mode", backup_mode, optional},
    {"whole", boolean, optional},   {"backing", backing, optional},
    {"timeout", integer, optional}, {"scratch-max", integer, optional}};
const Member in_backup_end[] = {{"id", string}, {"success", boolean}};
}  // namespace

constinit const Type bitmap_merge = object("BlockDirtyBitmapMerge", in_bitmap_merge);
constinit const Type snapshot = object("BlockdevSnapshotInternal", in_snapshot);
constinit const Type snapshot_delete = object("BlockdevSnapshotDelete", in_snapshot_delete);
constinit const Type snapshot_revert = object("SnapshotRevert", in_snapshot_revert);
constinit const Type resize = object("BlockResize", in_resize);
constinit const Type backup_begin = object("BackupBegin", in_backup_begin);
constinit const Type backup_end = object("BackupEnd", in_backup_end);

// What stands beside "type" in an action of a transaction.
namespace {
const Member in_abort_action[] = {{"data", nothing}};
const Member in_add_action[] = {{"data", bitmap_add}};
const Member in_bitmap_action[] = {{"data", bitmap}};
const Member in_merge_action[] = {{"data", bitmap_merge}};
const Member in_snapshot_action[] = {{"data", snapshot}};
const Member in_backup_action[] = {{"data", backup_begin}};
constinit const Type abort_action = object("AbortWrapper", in_abort_action);
constinit const Type add_action = object("BlockDirtyBitmapAddWrapper", in_add_action);
constinit const Type bitmap_action = object("BlockDirtyBitmapWrapper", in_bitmap_action);
constinit const Type merge_action = object("BlockDirtyBitmapMergeWrapper", in_merge_action);
constinit const Type snapshot_action =
    object("BlockdevSnapshotInternalWrapper", in_snapshot_action);
constinit const Type backup_action = object("BackupBeginWrapper", in_backup_action);

const Branch action_branches[] = {{"abort", abort_action},
                                  {"backup-begin", backup_action},
                                  {"block-dirty-bitmap-add", add_action},
                                  {"block-dirty-bitmap-clear", bitmap_action},
                                  {"block-dirty-bitmap-disable", bitmap_action},
                                  {"block-dirty-bitmap-enable", bitmap_action},
                                  {"block-dirty-bitmap-merge", merge_action},
                                  {"block-dirty-bitmap-remove", bitmap_action},
                                  {"blockdev-snapshot-internal-sync", snapshot_action}};
constexpr std::string_view action_kinds[] = {"abort",
                                             "backup-begin",
                                             "block-dirty-bitmap-add",
                                             "block-dirty-bitmap-clear",
                                             "block-dirty-bitmap-disable",
                                             "block-dirty-bitmap-enable",
                                             "block-dirty-bitmap-merge",
                                             "block-dirty-bitmap-remove",
                                             "blockdev-snapshot-internal-sync"};
constinit const Type action_kind = words("TransactionActionKind", action_kinds);
const Member in_action[] = {{"type", action_kind}};
constinit const Type action = {Kind::object, "TransactionAction", {}, nullptr, in_action,
                               "type",       action_branches,     {}};
constinit const Type actions = array("[TransactionAction]", action);

constexpr std::string_view completion_modes[] = {"individual", "grouped"};
constinit const Type completion_mode = words("ActionCompletionMode", completion_modes);
const Member in_properties[] = {{"completion-mode", completion_mode, optional}};
constinit const Type properties = object("TransactionProperties", in_properties);
const Member in_transaction[] = {{"actions", actions}, {"properties", properties, optional}};
}  // namespace

constinit const Type transaction = object("Transaction", in_transaction);

// --- Answers.

namespace {
const Member in_version_triple[] = {{"major", integer}, {"minor", integer}, {"micro", integer}};
constinit const Type version_triple = object("VersionTriple", in_version_triple);
const Member in_version_info[] = {{"qemu", version_triple}, {"package", string}};

const Member in_command_info[] = {{"name", string}};
constinit const Type command_info = object("CommandInfo", in_command_info);

// As QEMU has it a union; what is beside the name differs with the kind.
constinit const Type schema_info = {Kind::any, "any"};

const Member in_name_info[] = {{"name", string, optional}};

const Member in_snapshot_info[] = {{"id", string},
                                   {"name", string},
                                   {"vm-state-size", integer},
                                   {"date-sec", integer},
                                   {"date-nsec", integer},
                                   {"vm-clock-sec", integer},
                                   {"vm-clock-nsec", integer},
                                   {"icount", integer, optional}};
}  // namespace

constinit const Type version_info = object("VersionInfo", in_version_info);
constinit const Type command_infos = array("[CommandInfo]", command_info);
constinit const Type schema_infos = array("[any]", schema_info);
constinit const Type name_info = object("NameInfo", in_name_info);
constinit const Type snapshot_info = object("SnapshotInfo", in_snapshot_info);

namespace {
constinit const Type snapshot_infos = array("[SnapshotInfo]", snapshot_info);

const Member in_bitmap_status[] = {
    {"name", string},          {"granularity", integer},
    {"count", integer},        {"extra", integer},
    {"enabled", boolean},      {"busy", boolean},
    {"inconsistent", boolean}, {"why-not-tracked", string, optional}};
constinit const Type bitmap_status = object("BitmapStatus", in_bitmap_status);
constinit const Type bitmap_statuses = array("[BitmapStatus]", bitmap_status);

const Member in_growth[] = {{"possible", boolean}, {"why-not", string, optional}};
constinit const Type growth = object("GrowthStatus", in_growth);

// Which members there are depends on whether the disk could be opened.
const Member in_disk_status[] = {{"open", boolean},
                                 {"file", string, optional},
                                 {"clients", integer},
                                 {"error", string, optional},
                                 {"size", integer, optional},
                                 {"cluster-size", integer, optional},
                                 {"read-only", boolean, optional},
                                 {"why-read-only", string, optional},
                                 {"missing", string, optional},
                                 {"can-flush", boolean, optional},
                                 {"settled", boolean, optional},
                                 {"growth", growth, optional},
                                 {"free-bytes", integer, optional},
                                 {"actual-bytes", integer, optional},
                                 {"nbd-uri", string, optional},
                                 {"bitmaps", bitmap_statuses, optional},
                                 {"snapshots", snapshot_infos, optional}};
constinit const Type disk_status = object("DiskStatus", in_disk_status);
constexpr std::string_view run_states[] = {"running", "io-error", "shutdown"};
constinit const Type run_state = words("RunState", run_states);
const Member in_status_info[] = {
    {"running", boolean}, {"singlestep", boolean}, {"status", run_state}, {"disk", disk_status}};

const Member in_bitmap_info[] = {{"name", string},
                                 {"count", integer},
                                 {"granularity", integer},
                                 {"recording", boolean},
                                 {"busy", boolean},
                                 {"persistent", boolean},
                                 {"inconsistent", boolean, optional}};
constinit const Type bitmap_info = object("BlockDirtyInfo", in_bitmap_info);
constinit const Type bitmap_infos = array("[BlockDirtyInfo]", bitmap_info);

const Member in_image_info[] = {{"filename", string},
                                {"format", string},
                                {"virtual-size", integer},
                                {"actual-size", integer, optional},
                                {"cluster-size", integer, optional},
                                {"snapshots", snapshot_infos, optional}};
constinit const Type image_info = object("ImageInfo", in_image_info);
const Member in_cache_info[] = {{"writeback", boolean}, {"direct", boolean}, {"no-flush", boolean}};
constinit const Type cache_info = object("BlockdevCacheInfo", in_cache_info);
const Member in_child[] = {{"child", string}, {"node-name", string}};
constinit const Type child = object("BlockdevChild", in_child);
constinit const Type children = array("[BlockdevChild]", child);
constexpr std::string_view detect_zeroes_words[] = {"off", "on", "unmap"};
constinit const Type detect_zeroes = words("BlockdevDetectZeroesOptions", detect_zeroes_words);
const Member in_block_device_info[] = {{"file", string},
                                       {"node-name", string, optional},
                                       {"ro", boolean},
                                       {"active", boolean},
                                       {"drv", string},
                                       {"children", children},
                                       {"backing_file_depth", integer},
                                       {"encrypted", boolean},
                                       {"detect_zeroes", detect_zeroes},
                                       {"bps", integer},
                                       {"bps_rd", integer},
                                       {"bps_wr", integer},
                                       {"iops", integer},
                                       {"iops_rd", integer},
                                       {"iops_wr", integer},
                                       {"image", image_info},
                                       {"cache", cache_info},
                                       {"write_threshold", integer},
                                       {"dirty-bitmaps", bitmap_infos, optional}};
constinit const Type block_device_info = object("BlockDeviceInfo", in_block_device_info);
const Member in_block_info[] = {{"device", string},  {"qdev", string, optional},
                                {"type", string},    {"removable", boolean},
                                {"locked", boolean}, {"inserted", block_device_info, optional}};
constinit const Type block_info = object("BlockInfo", in_block_info);

constexpr std::string_view export_kinds[] = {"nbd"};
constinit const Type export_kind = words("BlockExportType", export_kinds);
const Member in_block_export_info[] = {
    {"id", string}, {"type", export_kind}, {"node-name", string}, {"shutting-down", boolean}};
constinit const Type block_export_info = object("BlockExportInfo", in_block_export_info);

// There are none.
constinit const Type job_info = object("JobInfo", {});

const Member in_backup_begun[] = {{"id", string},           {"size", integer},
                                  {"mode", backup_mode},    {"why-full", string, optional},
                                  {"dirty-bytes", integer}, {"exports", strings}};
constexpr std::string_view backup_states[] = {"active", "broken"};
constinit const Type backup_state = words("BackupState", backup_states);
const Member in_backup_info[] = {{"id", string},
                                 {"state", backup_state},
                                 {"reason", string, optional},
                                 {"mode", backup_mode},
                                 {"size", integer},
                                 {"dirty-bytes", integer},
                                 {"age", integer},
                                 {"lease-left", integer, optional},
                                 {"scratch-bytes", integer},
                                 {"bytes-read", integer},
                                 {"clients", integer},
                                 {"bitmaps", strings},
                                 {"exports", strings}};
constinit const Type backup_info = object("BackupInfo", in_backup_info);
}  // namespace

constinit const Type status_info = object("StatusInfo", in_status_info);
constinit const Type block_infos = array("[BlockInfo]", block_info);
constinit const Type block_device_infos = array("[BlockDeviceInfo]", block_device_info);
constinit const Type block_export_infos = array("[BlockExportInfo]", block_export_info);
constinit const Type job_infos = array("[JobInfo]", job_info);
constinit const Type backup_begun = object("BackupBegun", in_backup_begun);
namespace {
const Member in_transaction_done[] = {{"backup", backup_begun, optional}};
}  // namespace
constinit const Type transaction_done = object("TransactionDone", in_transaction_done);
constinit const Type backup_infos = array("[BackupInfo]", backup_info);

// --- Events.

namespace {
const Member in_image_corrupted[] = {
    {"device", string}, {"node-name", string, optional}, {"msg", string}, {"fatal", boolean}};
constexpr std::string_view io_operations[] = {"read", "write"};
constinit const Type io_operation = words("IoOperationType", io_operations);
constexpr std::string_view io_actions[] = {"report"};
constinit const Type io_action = words("BlockErrorAction", io_actions);
const Member in_io_error[] = {
    {"device", string},    {"node-name", string, optional}, {"operation", io_operation},
    {"action", io_action}, {"nospace", boolean, optional},  {"reason", string}};
const Member in_bitmap_given_up[] = {{"node", string}, {"name", string}, {"reason", string}};
const Member in_backup_broken[] = {{"id", string}, {"reason", string}};
const Member in_backup_expired[] = {{"id", string}};
}  // namespace

constinit const Type image_corrupted = object("BlockImageCorrupted", in_image_corrupted);
constinit const Type io_error = object("BlockIoError", in_io_error);
constinit const Type bitmap_given_up = object("BitmapGivenUp", in_bitmap_given_up);
constinit const Type backup_broken = object("BackupBroken", in_backup_broken);
constinit const Type backup_expired = object("BackupExpired", in_backup_expired);

}  // namespace qcow2::types
