// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/exports.h"

#include <bit>
#include <ctime>
#include <unordered_map>
#include <utility>

#include "core/base/log.h"

namespace qcow2 {

namespace {

constexpr std::string_view snapshot_prefix = "snapshot/";

// A message names as many as fit into so many bytes.
constexpr std::size_t listed_bytes_max = 500;

// "2026-11-27 21:00:05 UTC".
std::string utc(std::uint32_t seconds)
{
    const std::time_t time = seconds;
    std::tm parts{};
    ::gmtime_r(&time, &parts);
    char text[32];
    const std::size_t length = std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &parts);
    return std::string(text, length);
}

// The disk itself: each call is one of the disk's, and nothing else.
class LiveExport final : public Export {
public:
    explicit LiveExport(Disk &disk) : disk_(disk) {}

    std::uint64_t size() const override { return disk_.size(); }
    std::uint32_t preferred_block() const override
    {
        return static_cast<std::uint32_t>(disk_.cluster_size());
    }
    std::string description() const override { return "the virtual disk of a qcow2 image"; }

    Result<void> read(GuestOffset offset, MutableBytes bytes) override
    {
        return disk_.read(offset, bytes);
    }
    Result<std::vector<Extent>> status(GuestOffset offset, std::uint64_t length) override
    {
        return disk_.block_status(offset, length);
    }
    Result<void> cache(GuestOffset offset, std::uint64_t length) override
    {
        return disk_.cache(offset, length);
    }

    bool can_write() const override { return !disk_.why_read_only(); }
    bool can_flush() const override { return disk_.can_flush(); }
    Result<void> write(GuestOffset offset, Bytes bytes, bool fua) override
    {
        return disk_.write(offset, bytes, fua);
    }
    Result<void> zero(GuestOffset offset, std::uint64_t length, ZeroFlags flags) override
    {
        return disk_.zero(offset, length, flags);
    }
    Result<void> trim(GuestOffset offset, std::uint64_t length, bool fua) override
    {
        return disk_.trim(offset, length, fua);
    }
    Result<void> flush() override { return disk_.flush(); }

private:
    Disk &disk_;
};

class SnapshotExport final : public Export {
public:
    SnapshotExport(std::shared_ptr<SnapshotReader> reader, std::uint32_t preferred_block)
        : reader_(std::move(reader)), preferred_block_(preferred_block)
    {
    }

    std::uint64_t size() const override { return reader_->size(); }
    std::uint32_t preferred_block() const override { return preferred_block_; }
    std::string description() const override { return describe(reader_->snapshot()); }

    Result<void> read(GuestOffset offset, MutableBytes bytes) override
    {
        return reader_->read(offset, bytes);
    }
    Result<std::vector<Extent>> status(GuestOffset offset, std::uint64_t length) override
    {
        return reader_->block_status(offset, length);
    }

    static std::string describe(const Snapshot &snapshot)
    {
        return formatted("{} of {}, read-only", words_for(snapshot), utc(snapshot.date_seconds));
    }

private:
    const std::shared_ptr<SnapshotReader> reader_;
    const std::uint32_t preferred_block_;
};

// What a backup keeps of the disk, for those who show it.
class FrozenSource final : public BackupSource {
public:
    explicit FrozenSource(std::shared_ptr<const Backup> backup) : backup_(std::move(backup))
    {
        for (const FrozenBitmap &bitmap : backup_->bitmaps)
            bitmaps_.push_back({bitmap.name,
                                static_cast<std::uint32_t>(std::countr_zero(bitmap.granularity)),
                                [bits = bitmap.bits](std::uint64_t bit, bool set) {
                                    return set ? bits->next_set(bit) : bits->next_clear(bit);
                                }});
    }

    std::uint64_t size() const override { return backup_->disk->size(); }
    Result<void> read(GuestOffset offset, MutableBytes bytes) override
    {
        return backup_->disk->read(offset, bytes);
    }
    Result<std::vector<Extent>> status(std::uint64_t offset, std::uint64_t length) override
    {
        return backup_->disk->status(offset, length);
    }
    const std::vector<BackupBitmap> &bitmaps() const override { return bitmaps_; }
    std::optional<std::string> broken() const override { return backup_->disk->broken(); }

private:
    const std::shared_ptr<const Backup> backup_;
    std::vector<BackupBitmap> bitmaps_;
};

// Each by its name, where that leads to it (an ID goes before a name), else by its ID.
// Names come from images: what cannot be seen is not listed.
void list_snapshots(const std::vector<Snapshot> &snapshots, std::vector<ExportName> &exports)
{
    std::unordered_map<std::string_view, const Snapshot *> leads_to;
    for (const Snapshot &snapshot : snapshots)
        leads_to.emplace(snapshot.id, &snapshot);
    for (const Snapshot &snapshot : snapshots)
        leads_to.emplace(snapshot.name, &snapshot);
    const auto can_be_listed = [&](const Snapshot &snapshot, const std::string &name) {
        return leads_to[name] == &snapshot && !name.empty() && printable(name) == name &&
               snapshot_prefix.size() + name.size() <= ExportName::bytes_max;
    };
    for (const Snapshot &snapshot : snapshots) {
        if (snapshot.finding || exports.size() >= ExportName::listed_max)
            continue;
        for (const std::string &name : {snapshot.name, snapshot.id})
            if (can_be_listed(snapshot, name)) {
                exports.push_back(
                    {std::string(snapshot_prefix) + name, SnapshotExport::describe(snapshot)});
                break;
            }
    }
}

std::string names_of(const std::vector<ExportName> &exports)
{
    std::string names;
    for (const ExportName &one : exports) {
        if (names.size() > listed_bytes_max)
            return formatted("{}, ... (nbdinfo --list shows all)", names);
        names += (names.empty() ? "" : ", ") + quote(one.name);
    }
    return names;
}

}  // namespace

std::vector<ServedBackup> Exports::running_backups()
{
    std::vector<ServedBackup> running;
    for (const std::shared_ptr<const Backup> &backup : disk_.backups())
        running.push_back({backup->id, std::make_shared<FrozenSource>(backup), backup,
                           backup->whole, backup->backing_file, backup->backing_format});
    return running;
}

std::vector<ExportName> Exports::list()
{
    std::vector<ExportName> exports;
    exports.push_back({"", LiveExport(disk_).description()});
    for (const ServedBackup &backup : running_backups())
        BackupExports::list(backup, exports);
    if (const auto snapshots = disk_.snapshots())
        list_snapshots(*snapshots, exports);
    else
        log_debug("no snapshots are listed: {}", snapshots.error().what);
    return exports;
}

Result<std::unique_ptr<Export>> Exports::open(std::string_view name)
{
    if (name.empty())
        return std::unique_ptr<Export>(new LiveExport(disk_));
    const std::string context = formatted("export {}", quote(name));
    if (name.starts_with(snapshot_prefix))
        return std::unique_ptr<Export>(std::make_unique<SnapshotExport>(
            TRY(disk_.open_snapshot(name.substr(snapshot_prefix.size())).in(context)),
            static_cast<std::uint32_t>(disk_.cluster_size())));
    if (name.starts_with(BackupExports::prefix)) {
        auto opened = backups_.open(running_backups(), name);
        if (opened || opened.error().code != Errc::not_found)
            return std::move(opened).in(context);
    }
    return Error(Errc::not_found, "there is no {}; there are {}", context, names_of(list()));
}

}  // namespace qcow2
