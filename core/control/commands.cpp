// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/control/command.h"

#include <cstdio>

#include "core/control/backup_commands.h"
#include "core/control/disk_info.h"
#include "core/control/host.h"
#include "core/control/plan.h"
#include "core/control/schema.h"
#include "core/control/types.h"

namespace qcow2 {

namespace {

// --- About ourselves.

Result<Json> qmp_capabilities(const Situation &, const Json &) { return Json::object(); }

Result<Json> query_version(const Situation &, const Json &) { return version(); }

Result<Json> query_commands(const Situation &, const Json &)
{
    Json names = Json::array();
    for (const Command &command : all_commands())
        names.push_back({{"name", command.name}});
    return names;
}

Result<Json> query_qmp_schema(const Situation &, const Json &)
{
    return describe(all_commands(), all_events());
}

// Of a virtual machine. There is none.
Result<Json> query_name(const Situation &, const Json &) { return Json::object(); }

Result<Json> query_jobs(const Situation &, const Json &) { return Json::array(); }

Result<Json> quit(const Situation &situation, const Json &)
{
    TRY(situation.host->quit());
    return Json::object();
}

// --- Changes: each alone, or several as one.

template <const char *action>
Result<Json> one_action(const Situation &situation, const Json &arguments)
{
    Plan plan = TRY(Plan::of(situation));
    TRY(plan.add(action, arguments));
    return TRY(plan.carry_out()).value_or(Json::object());
}

constexpr char backup_begin[] = "backup-begin";
constexpr char bitmap_add[] = "block-dirty-bitmap-add";
constexpr char bitmap_clear[] = "block-dirty-bitmap-clear";
constexpr char bitmap_disable[] = "block-dirty-bitmap-disable";
constexpr char bitmap_enable[] = "block-dirty-bitmap-enable";
constexpr char bitmap_merge[] = "block-dirty-bitmap-merge";
constexpr char bitmap_remove[] = "block-dirty-bitmap-remove";
constexpr char make_snapshot[] = "blockdev-snapshot-internal-sync";

Result<Json> transaction(const Situation &situation, const Json &arguments)
{
    const Json &actions = arguments.at("actions");
    const bool grouped =
        arguments.value("/properties/completion-mode"_json_pointer, "individual") == "grouped";
    if (grouped && !actions.empty())
        return Error(Errc::invalid,
                     "Action '{}' does not support Transaction property completion-mode = grouped",
                     actions[0].at("type").get<std::string>());
    Plan plan = TRY(Plan::of(situation));
    for (const Json &action : actions)
        TRY(plan.add(action.at("type").get<std::string>(), action.at("data")));
    const auto begun = TRY(plan.carry_out());
    return begun ? Json{{"backup", *begun}} : Json::object();
}

// --- Size and snapshots.

Result<Json> block_resize(const Situation &situation, const Json &arguments)
{
    const std::string device = arguments.value("device", ""),
                      node = arguments.value("node-name", "");
    if ((device.empty() && node.empty()) || (!device.empty() && device != disk_name) ||
        (!node.empty() && node != disk_name))
        return Error(Errc::not_found, "Cannot find device='{}' nor node-name='{}'", device, node);
    const std::int64_t size = arguments.at("size").get<std::int64_t>();
    if (size < 0)
        return Error(Errc::invalid, "Parameter 'size' expects a >0 size");
    if (size % 512 != 0)
        return Error(Errc::invalid, "The new size must be a multiple of 512");
    TRY(situation.disk->resize(static_cast<std::uint64_t>(size)));
    return Json::object();
}

std::string word_or_null(const Json &arguments, const char *member)
{
    return arguments.contains(member) ? arguments.at(member).get<std::string>() : "null";
}

Result<Json> delete_snapshot(const Situation &situation, const Json &arguments)
{
    TRY(check_device_or_node(arguments, "device"));
    if (!arguments.contains("id") && !arguments.contains("name"))
        return Error(Errc::invalid, "Name or id must be provided");
    for (const Snapshot &snapshot : TRY(situation.disk->snapshots())) {
        if (arguments.value("id", snapshot.id) != snapshot.id ||
            arguments.value("name", snapshot.name) != snapshot.name)
            continue;
        TRY(situation.disk->delete_snapshot(snapshot.id));
        return describe_snapshot(snapshot);
    }
    return Error(Errc::not_found,
                 "Snapshot with id '{}' and name '{}' does not exist on device '{}'",
                 word_or_null(arguments, "id"), word_or_null(arguments, "name"),
                 arguments.at("device").get<std::string>());
}

Result<Json> snapshot_revert(const Situation &situation, const Json &arguments)
{
    TRY(situation.disk->revert(arguments.at("id-or-name").get<std::string>()));
    return Json::object();
}

// --- The tables, each in the order of `LC_ALL=C sort`.

using Needs = Command::Needs;

constexpr Command commands[] = {
    {backup_begin, types::backup_begin, types::backup_begun, Needs::disk_to_change,
     one_action<backup_begin>},
    {"backup-end", types::backup_end, types::nothing, Needs::disk_to_change, backup_end},
    {bitmap_add, types::bitmap_add, types::nothing, Needs::disk_to_change, one_action<bitmap_add>},
    {bitmap_clear, types::bitmap, types::nothing, Needs::disk_to_change, one_action<bitmap_clear>},
    {bitmap_disable, types::bitmap, types::nothing, Needs::disk_to_change,
     one_action<bitmap_disable>},
    {bitmap_enable, types::bitmap, types::nothing, Needs::disk_to_change,
     one_action<bitmap_enable>},
    {bitmap_merge, types::bitmap_merge, types::nothing, Needs::disk_to_change,
     one_action<bitmap_merge>},
    {bitmap_remove, types::bitmap, types::nothing, Needs::disk_to_change,
     one_action<bitmap_remove>},
    {"block_resize", types::resize, types::nothing, Needs::disk_to_change, block_resize},
    {"blockdev-snapshot-delete-internal-sync", types::snapshot_delete, types::snapshot_info,
     Needs::disk_to_change, delete_snapshot},
    {make_snapshot, types::snapshot, types::nothing, Needs::disk_to_change,
     one_action<make_snapshot>},
    {"qmp_capabilities", types::capabilities_arguments, types::nothing, Needs::nothing,
     qmp_capabilities},
    {"query-backups", types::nothing, types::backup_infos, Needs::disk, query_backups},
    {"query-block", types::nothing, types::block_infos, Needs::disk, query_block},
    {"query-block-exports", types::nothing, types::block_export_infos, Needs::host,
     query_block_exports},
    {"query-commands", types::nothing, types::command_infos, Needs::nothing, query_commands},
    {"query-jobs", types::nothing, types::job_infos, Needs::nothing, query_jobs},
    {"query-name", types::nothing, types::name_info, Needs::nothing, query_name},
    {"query-named-block-nodes", types::nodes_arguments, types::block_device_infos, Needs::disk,
     query_named_block_nodes},
    {"query-qmp-schema", types::nothing, types::schema_infos, Needs::nothing, query_qmp_schema},
    {"query-status", types::nothing, types::status_info, Needs::host, query_status},
    {"query-version", types::nothing, types::version_info, Needs::nothing, query_version},
    {"quit", types::nothing, types::nothing, Needs::host, quit},
    {"snapshot-revert", types::snapshot_revert, types::nothing, Needs::disk_to_change,
     snapshot_revert},
    {"transaction", types::transaction, types::transaction_done, Needs::disk_to_change,
     transaction},
};

constexpr Event events[] = {
    {"BACKUP_BROKEN", types::backup_broken},     {"BACKUP_EXPIRED", types::backup_expired},
    {"BITMAP_GIVEN_UP", types::bitmap_given_up}, {"BLOCK_IMAGE_CORRUPTED", types::image_corrupted},
    {"BLOCK_IO_ERROR", types::io_error},
};

}  // namespace

std::span<const Command> all_commands() { return commands; }
std::span<const Event> all_events() { return events; }

const Command *find_command(std::string_view name)
{
    for (const Command &command : commands)
        if (command.name == name)
            return &command;
    return nullptr;
}

void look_at_leases(Host &host)
{
    if (host.leases.none())
        return;
    const Result<Disk *> disk = host.enter();
    if (!disk)
        return;
    host.leases.look(**disk, Leases::Clock::now());
    host.leave();
}

Json version()
{
    int major = 0, minor = 0, micro = 0;
    std::sscanf(PACKAGE_VERSION, "%d.%d.%d", &major, &minor, &micro);
    return {{"qemu", {{"major", major}, {"minor", minor}, {"micro", micro}}},
            {"package", "qcow2bitmap " PACKAGE_VERSION}};
}

Result<Json> run_command(const Command &command, Host &host, const Json &arguments)
{
    if (command.needs == Needs::nothing || command.needs == Needs::host)
        return command.run({&host, nullptr}, arguments);
    struct Visit {
        Host &host;
        ~Visit() { host.leave(); }
    };
    Disk *disk = TRY(host.enter());
    const Visit visit{host};
    const auto why_read_only = disk->why_read_only();
    if (command.needs == Needs::disk_to_change && why_read_only)
        return Error(*why_read_only).in("the disk is served read-only");
    return command.run({&host, disk}, arguments);
}

}  // namespace qcow2
