// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/control/plan.h"

#include <bit>
#include <ctime>
#include <type_traits>

#include "core/base/arith.h"
#include "core/control/command.h"
#include "core/control/host.h"
#include "core/format/limits.h"

namespace qcow2 {

namespace {

std::string text(const Json &data, std::string_view member)
{
    return data.at(std::string(member)).get<std::string>();
}

bool flag(const Json &data, std::string_view member, bool otherwise)
{
    const auto found = data.find(member);
    return found == data.end() ? otherwise : found->get<bool>();
}

Result<std::optional<std::uint32_t>> granularity_bits(const Json &data)
{
    const auto found = data.find("granularity");
    if (found == data.end())
        return std::optional<std::uint32_t>();
    const std::uint64_t granularity = found->get<std::uint64_t>();
    if (!is_power_of_two(granularity) || granularity < std::uint64_t(1)
                                                           << limits::bitmap_granularity_bits_min)
        return Error(Errc::invalid, "Granularity must be power of 2 and at least 512");
    return std::optional<std::uint32_t>(static_cast<std::uint32_t>(std::countr_zero(granularity)));
}

NewSnapshot snapshot_of_now(std::string name)
{
    timespec now = {};
    ::clock_gettime(CLOCK_REALTIME, &now);
    return {std::move(name), static_cast<std::uint32_t>(now.tv_sec),
            static_cast<std::uint32_t>(now.tv_nsec)};
}

}  // namespace

Result<void> check_node(const Json &arguments, std::string_view member)
{
    if (const std::string node = text(arguments, member); node != disk_name)
        return Error(Errc::not_found, "Node '{}' not found", node);
    return {};
}

Result<void> check_device_or_node(const Json &arguments, std::string_view member)
{
    if (const std::string node = text(arguments, member); node != disk_name)
        return Error(Errc::not_found, "Cannot find device='{}' nor node-name='{}'", node, node);
    return {};
}

Result<Plan> Plan::of(const Situation &situation)
{
    Disk &disk = *situation.disk;
    Plan plan(situation);
    for (const BitmapState &state : TRY(disk.bitmap_states(false)))
        plan.bitmaps_[state.name] = {state.busy, state.inconsistent, state.enabled, false};
    for (const Snapshot &snapshot : TRY(disk.snapshots()))
        plan.snapshot_names_.insert(snapshot.name);
    return plan;
}

Result<void> Plan::add(std::string_view action, const Json &data)
{
    if (action == "block-dirty-bitmap-add")
        return add_bitmap(data);
    if (action == "block-dirty-bitmap-remove")
        return remove_bitmap(data);
    if (action == "block-dirty-bitmap-clear")
        return change_bitmap<ClearBitmap>(data);
    if (action == "block-dirty-bitmap-enable")
        return change_bitmap<EnableBitmap>(data);
    if (action == "block-dirty-bitmap-disable")
        return change_bitmap<DisableBitmap>(data);
    if (action == "block-dirty-bitmap-merge")
        return merge_bitmaps(data);
    if (action == "blockdev-snapshot-internal-sync")
        return make_snapshot(data);
    if (action == "backup-begin")
        return begin_backup(data);
    if (action == "abort")
        return Error(Errc::invalid, "Transaction aborted using Abort action");
    return Error(Errc::unsupported, "There is no action '{}'", action);
}

Result<std::optional<Json>> Plan::carry_out() const
{
    if (steps_.empty())
        return std::optional<Json>();
    const auto begun = TRY(situation_.disk->change_together(steps_));
    if (!begun || !backup_)
        return std::optional<Json>();
    return std::optional<Json>(describe_begun(*situation_.host, *backup_, *begun));
}

Result<void> Plan::add_bitmap(const Json &data)
{
    TRY(check_device_or_node(data, "node"));
    const std::string name = text(data, "name");
    if (name.empty())
        return Error(Errc::invalid, "Bitmap name cannot be empty");
    NewBitmap bitmap{name, TRY(granularity_bits(data)), !flag(data, "disabled", false), false};
    if (name.size() > limits::bitmap_name_bytes_max)
        return Error(Errc::invalid, "Bitmap name too long: {}", name);
    if (bitmaps_.contains(name))
        return Error(Errc::exists, "Bitmap already exists: {}", name);
    if (!flag(data, "persistent", false))
        return Error(Errc::unsupported,
                     "Bitmap '{}' would not survive the end of the server: only persistent ones "
                     "are kept here; add \"persistent\": true",
                     name);
    bitmaps_[name] = {.enabled = bitmap.enabled};
    steps_.push_back(BitmapStep(AddBitmap{std::move(bitmap)}));
    return {};
}

Result<const Plan::Bitmap *> Plan::find(const std::string &name) const
{
    const auto found = bitmaps_.find(name);
    if (found == bitmaps_.end())
        return Error(Errc::not_found, "Dirty bitmap '{}' not found", name);
    if (found->second.busy || found->second.removed)
        return Error(Errc::busy,
                     "Bitmap '{}' is currently in use by another operation and cannot be used",
                     name);
    return &found->second;
}

// The name of a bitmap whose bits can be used.
Result<std::string> Plan::usable(const Json &data, std::string_view member) const
{
    TRY(check_node(data, "node"));
    const std::string name = text(data, member);
    if (TRY(find(name))->inconsistent)
        return Error(Errc::busy, "Bitmap '{}' is inconsistent and cannot be used", name);
    return name;
}

Result<void> Plan::remove_bitmap(const Json &data)
{
    TRY(check_node(data, "node"));
    const std::string name = text(data, "name");
    TRY(find(name));
    bitmaps_[name].removed = true;
    steps_.push_back(BitmapStep(RemoveBitmap{name}));
    return {};
}

template <class Change>
Result<void> Plan::change_bitmap(const Json &data)
{
    const std::string name = TRY(usable(data));
    if constexpr (std::is_same_v<Change, EnableBitmap> || std::is_same_v<Change, DisableBitmap>)
        bitmaps_[name].enabled = std::is_same_v<Change, EnableBitmap>;
    steps_.push_back(BitmapStep(Change{name}));
    return {};
}

std::optional<std::string> Plan::why_not_incremental(const std::string &name) const
{
    const auto found = bitmaps_.find(name);
    if (found == bitmaps_.end() || found->second.removed)
        return formatted("There is no bitmap '{}' that says what has changed", name);
    if (found->second.inconsistent)
        return formatted("Bitmap '{}' is inconsistent, and cannot say what has changed", name);
    if (!found->second.enabled)
        return formatted("Bitmap '{}' is disabled, and has not seen what has changed", name);
    return std::nullopt;
}

// The first number that no backup has had: a client that comes late finds none, and not
// another one.
std::string Plan::next_backup_id() const
{
    std::uint64_t &last = situation_.host->last_backup_number;
    do
        ++last;
    while (situation_.disk->backup(std::to_string(last)));
    return std::to_string(last);
}

Result<void> Plan::begin_backup(const Json &data)
{
    if (backup_)
        return Error(Errc::unsupported,
                     "Only one backup can begin at an instant; it can have several bitmaps");
    PlannedBackup planned =
        TRY(plan_backup(data, data.contains("id") ? "" : next_backup_id(),
                        [this](const std::string &bitmap) { return why_not_incremental(bitmap); }));
    for (const std::string &name : planned.request.bitmaps) {
        if (bitmaps_.contains(name))
            TRY(find(name));
        bitmaps_[name].busy = true;
    }
    steps_.push_back(BeginBackup{planned.request});
    backup_ = std::move(planned);
    return {};
}

Result<void> Plan::merge_bitmaps(const Json &data)
{
    MergeBitmaps merge{TRY(usable(data, "target")), {}};
    for (const Json &source : data.at("bitmaps")) {
        const Json named =
            source.is_object() ? source : Json{{"node", data.at("node")}, {"name", source}};
        merge.sources.push_back(TRY(usable(named)));
    }
    steps_.push_back(BitmapStep(std::move(merge)));
    return {};
}

Result<void> Plan::make_snapshot(const Json &data)
{
    TRY(check_device_or_node(data, "device"));
    const std::string name = text(data, "name");
    if (name.empty())
        return Error(Errc::invalid, "Name is empty");
    if (!snapshot_names_.insert(name).second)
        return Error(Errc::exists, "Snapshot with name '{}' already exists on device '{}'", name,
                     text(data, "device"));
    steps_.push_back(MakeSnapshot{snapshot_of_now(name)});
    return {};
}

}  // namespace qcow2
