// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/control/backup_commands.h"

#include <algorithm>
#include <chrono>

#include "core/control/host.h"

namespace qcow2 {

namespace {

constexpr std::int64_t timeout_seconds_max = 366 * 24 * 3600;

Result<std::optional<std::int64_t>> positive(const Json &arguments, const char *member,
                                             std::int64_t most)
{
    if (!arguments.contains(member))
        return std::optional<std::int64_t>();
    const std::int64_t value = arguments.at(member).get<std::int64_t>();
    if (value <= 0 || value > most)
        return Error(Errc::invalid, "Parameter '{}' must be from 1 to {}", member, most);
    return std::optional<std::int64_t>(value);
}

Result<std::vector<std::string>> bitmaps_of(const Json &arguments)
{
    if (arguments.contains("bitmap") && arguments.contains("bitmaps"))
        return Error(Errc::invalid, "Parameters 'bitmap' and 'bitmaps' cannot both be given");
    if (arguments.contains("bitmap"))
        return std::vector<std::string>{arguments.at("bitmap").get<std::string>()};
    return arguments.value("bitmaps", std::vector<std::string>());
}

std::string_view mode_of(const Backup &backup)
{
    return backup.incremental ? "incremental" : "full";
}

// "backup/mon", and what stands below it or is a file of it.
bool shows(const HostExport &exported, const std::string &id)
{
    const std::string name = "backup/" + id;
    if (!exported.name.starts_with(name))
        return false;
    const std::string_view rest = std::string_view(exported.name).substr(name.size());
    return rest.empty() || rest.starts_with('/') || rest == ".qcow2";
}

Json exports_of(Host &host, const std::string &id, unsigned &clients)
{
    Json names = Json::array();
    for (const HostExport &exported : host.exports()) {
        if (!shows(exported, id))
            continue;
        names.push_back(exported.name);
        clients += exported.clients;
    }
    return names;
}

}  // namespace

Result<PlannedBackup> plan_backup(const Json &arguments, const std::string &next_id,
                                  const WhyNotIncremental &why_not_incremental)
{
    PlannedBackup planned;
    BackupRequest &request = planned.request;
    request.id = arguments.value("id", next_id);
    request.bitmaps = TRY(bitmaps_of(arguments));
    const std::string mode =
        arguments.value("mode", request.bitmaps.empty() ? "full" : "incremental");
    if (mode != "full" && request.bitmaps.empty())
        return Error(Errc::invalid, "Mode '{}' needs a bitmap, which says what has changed", mode);
    request.incremental = mode != "full";
    for (const std::string &bitmap : request.bitmaps) {
        const auto why_not = why_not_incremental(bitmap);
        if (!request.incremental || !why_not)
            continue;
        if (mode == "incremental")
            return Error(Errc::busy, "{}; a full backup is possible", *why_not);
        request.incremental = false;
        planned.why_full = *why_not;
    }
    request.whole = arguments.value("whole", !request.incremental);
    if (!request.whole && !request.incremental)
        return Error(Errc::invalid, "A full backup shows the whole disk");
    if (const auto most = TRY(positive(arguments, "scratch-max", INT64_MAX)))
        request.scratch_bytes_max = static_cast<std::uint64_t>(*most);
    planned.timeout = TRY(positive(arguments, "timeout", timeout_seconds_max));
    if (arguments.contains("backing")) {
        const Json &backing = arguments.at("backing");
        request.backing_file = backing.at("file").get<std::string>();
        request.backing_format = backing.value("format", "");
    }
    return planned;
}

Json describe_begun(Host &host, const PlannedBackup &planned, const Backup &backup)
{
    if (planned.timeout)
        host.leases.begin(backup.id, std::chrono::seconds(*planned.timeout), Leases::Clock::now());
    unsigned clients = 0;
    Json begun = {{"id", backup.id},
                  {"size", backup.disk->size()},
                  {"mode", mode_of(backup)},
                  {"dirty-bytes", backup.dirty_bytes},
                  {"exports", exports_of(host, backup.id, clients)}};
    if (!planned.why_full.empty())
        begun["why-full"] = planned.why_full;
    return begun;
}

Result<Json> backup_end(const Situation &situation, const Json &arguments)
{
    const std::string id = arguments.at("id").get<std::string>();
    TRY(situation.disk->end_backup(id, arguments.at("success").get<bool>()));
    situation.host->leases.end(id);
    return Json::object();
}

Result<Json> query_backups(const Situation &situation, const Json &)
{
    Json described = Json::array();
    for (const auto &backup : situation.disk->backups()) {
        const auto age = std::chrono::system_clock::now() - backup->instant;
        unsigned clients = 0;
        Json names = Json::array();
        for (const FrozenBitmap &bitmap : backup->bitmaps)
            names.push_back(bitmap.name);
        Json entry = {{"id", backup->id},
                      {"mode", mode_of(*backup)},
                      {"size", backup->disk->size()},
                      {"dirty-bytes", backup->dirty_bytes},
                      {"age", std::max<std::int64_t>(
                                  0, std::chrono::floor<std::chrono::seconds>(age).count())},
                      {"scratch-bytes", backup->disk->scratch_bytes()},
                      {"bytes-read", backup->disk->bytes_read()},
                      {"bitmaps", std::move(names)},
                      {"exports", exports_of(*situation.host, backup->id, clients)}};
        entry["clients"] = clients;
        const auto broken = backup->disk->broken();
        entry["state"] = broken ? "broken" : "active";
        if (broken)
            entry["reason"] = *broken;
        if (const auto left = situation.host->leases.left(backup->id, Leases::Clock::now()))
            entry["lease-left"] = *left;
        described.push_back(std::move(entry));
    }
    return described;
}

}  // namespace qcow2
