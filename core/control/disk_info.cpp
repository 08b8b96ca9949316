// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/control/disk_info.h"

#include "core/control/host.h"
#include "core/disk.h"

namespace qcow2 {

namespace {

constexpr std::uint64_t nanoseconds = 1'000'000'000;

Result<Json> describe_snapshots(Disk &disk)
{
    Json described = Json::array();
    for (const Snapshot &snapshot : TRY(disk.snapshots()))
        described.push_back(describe_snapshot(snapshot));
    return described;
}

// Bits that cannot be read do not hide the rest.
Result<std::vector<BitmapState>> bitmaps_of(Disk &disk)
{
    auto states = disk.bitmap_states();
    return states ? std::move(states) : disk.bitmap_states(false);
}

// As QEMU tells them.
Json describe_bitmaps(const std::vector<BitmapState> &states)
{
    Json described = Json::array();
    for (const BitmapState &state : states) {
        Json entry = {{"name", state.name},
                      {"count", state.dirty_bytes},
                      {"granularity", state.granularity},
                      {"recording", state.enabled && !state.inconsistent},
                      {"busy", state.busy},
                      {"persistent", true}};
        if (state.inconsistent)
            entry["inconsistent"] = true;
        described.push_back(std::move(entry));
    }
    return described;
}

// With what is ours.
Json describe_status_of_bitmaps(const std::vector<BitmapState> &states)
{
    Json described = Json::array();
    for (const BitmapState &state : states) {
        Json entry = {{"name", state.name},
                      {"count", state.dirty_bytes},
                      {"granularity", state.granularity},
                      {"extra", state.extra_bytes},
                      {"enabled", state.enabled},
                      {"busy", state.busy},
                      {"inconsistent", state.inconsistent}};
        if (!state.why_not_tracked.empty())
            entry["why-not-tracked"] = state.why_not_tracked;
        described.push_back(std::move(entry));
    }
    return described;
}

Result<Json> describe_device(Host &host, Disk &disk)
{
    const HostState state = host.state();
    Json image = {{"filename", state.file},
                  {"format", "qcow2"},
                  {"virtual-size", disk.size()},
                  {"cluster-size", disk.cluster_size()}};
    if (state.actual_bytes)
        image["actual-size"] = *state.actual_bytes;
    if (Json snapshots = TRY(describe_snapshots(disk)); !snapshots.empty())
        image["snapshots"] = std::move(snapshots);
    Json device = {
        {"file", state.file},
        {"node-name", disk_name},
        {"ro", disk.why_read_only().has_value()},
        // QEMU has these two since 10, always; the file and a backing file are no nodes of ours.
        {"active", true},
        {"children", Json::array()},
        {"drv", "qcow2"},
        {"backing_file_depth", 0},
        {"encrypted", false},
        {"detect_zeroes", "off"},
        {"image", std::move(image)},
        {"cache", {{"writeback", true}, {"direct", false}, {"no-flush", !disk.can_flush()}}},
        {"write_threshold", 0}};
    for (const char *limit : {"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"})
        device[limit] = 0;
    if (const auto states = TRY(bitmaps_of(disk)); !states.empty())
        device["dirty-bitmaps"] = describe_bitmaps(states);
    return device;
}

Json describe_growth(const HostState &state)
{
    Json growth = {{"possible", state.can_grow}};
    if (!state.can_grow)
        growth["why-not"] = state.why_not_grow;
    return growth;
}

void describe_disk(Json &status, Disk &disk)
{
    status["size"] = disk.size();
    status["cluster-size"] = disk.cluster_size();
    status["can-flush"] = disk.can_flush();
    status["settled"] = disk.settled();
    const auto why_read_only = disk.why_read_only();
    status["read-only"] = why_read_only.has_value();
    if (why_read_only)
        status["why-read-only"] = why_read_only->what;
    if (disk.what_is_missing())
        status["missing"] = *disk.what_is_missing();
    // Of a disk that is broken as much as can still be told.
    if (const auto snapshots = describe_snapshots(disk))
        status["snapshots"] = *snapshots;
    if (const auto bitmaps = bitmaps_of(disk))
        status["bitmaps"] = describe_status_of_bitmaps(*bitmaps);
    if (const auto failed = disk.failed())
        status["error"] = failed->what;
    else if (const auto cause = disk.why_not_written())
        status["error"] = cause->what;
}

}  // namespace

Json describe_snapshot(const Snapshot &snapshot)
{
    return {{"id", snapshot.id},
            {"name", snapshot.name},
            {"vm-state-size", snapshot.vm_state_size},
            {"date-sec", snapshot.date_seconds},
            {"date-nsec", snapshot.date_nanoseconds},
            {"vm-clock-sec", snapshot.guest_runtime / nanoseconds},
            {"vm-clock-nsec", snapshot.guest_runtime % nanoseconds}};
}

// For a person at night: it is answered also if the disk cannot be opened.
Result<Json> query_status(const Situation &situation, const Json &)
{
    Host &host = *situation.host;
    Json status = Json::object();
    const Result<Disk *> disk = host.enter();
    if (disk)
        describe_disk(status, **disk);
    else
        status["error"] = disk.error().what;
    // Entered, we are counted as a client.
    const HostState state = host.state();
    if (disk) {
        host.leave();
        status["growth"] = describe_growth(state);
    }
    status["open"] = disk.has_value();
    status["clients"] = state.clients;
    if (!state.file.empty())
        status["file"] = state.file;
    if (!state.nbd_uri.empty())
        status["nbd-uri"] = state.nbd_uri;
    if (state.actual_bytes)
        status["actual-bytes"] = *state.actual_bytes;
    if (state.free_bytes)
        status["free-bytes"] = *state.free_bytes;
    const bool broken = status.contains("error");
    return Json{{"running", !broken && !host.ending()},
                {"singlestep", false},
                {"status", host.ending() ? "shutdown"
                           : broken      ? "io-error"
                                         : "running"},
                {"disk", std::move(status)}};
}

Result<Json> query_block(const Situation &situation, const Json &)
{
    Json block = {{"device", disk_name},
                  {"qdev", disk_name},
                  {"type", "unknown"},
                  {"removable", false},
                  {"locked", false},
                  {"inserted", TRY(describe_device(*situation.host, *situation.disk))}};
    return Json::array({std::move(block)});
}

Result<Json> query_named_block_nodes(const Situation &situation, const Json &)
{
    return Json::array({TRY(describe_device(*situation.host, *situation.disk))});
}

Result<Json> query_block_exports(const Situation &situation, const Json &)
{
    Json exports = Json::array();
    for (const HostExport &exported : situation.host->exports())
        exports.push_back({{"id", exported.name},
                           {"type", "nbd"},
                           {"node-name", disk_name},
                           {"shutting-down", false}});
    return exports;
}

}  // namespace qcow2
