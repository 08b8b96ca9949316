// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/backup_exports.h"

#include <algorithm>
#include <utility>

#include "core/base/log.h"

namespace qcow2 {

namespace {

constexpr std::string_view file_suffix = ".qcow2";
constexpr std::string_view dirty_suffix = "/dirty";

// What a backup keeps around something dirty, and the clusters of its files.
constexpr std::uint32_t preferred = Qcow2File::cluster_size;

std::string the_disk_of(const ServedBackup &backup)
{
    return formatted("the disk as it was when backup {} began", quote(backup.id));
}

std::string the_changes_of(const ServedBackup &backup, std::size_t bitmap)
{
    return formatted("what bitmap {} has dirty", quote(backup.source->bitmaps()[bitmap].name));
}

class FrozenDiskExport final : public Export {
public:
    explicit FrozenDiskExport(const ServedBackup &backup)
        : source_(backup.source), description_(description_of(backup))
    {
    }

    std::uint64_t size() const override { return source_->size(); }
    std::uint32_t preferred_block() const override { return preferred; }
    std::string description() const override { return description_; }

    Result<void> read(GuestOffset offset, MutableBytes bytes) override
    {
        return source_->read(offset, bytes);
    }
    Result<std::vector<Extent>> status(GuestOffset offset, std::uint64_t length) override
    {
        return source_->status(offset.value, length);
    }

    static std::string description_of(const ServedBackup &backup)
    {
        return formatted("{}, read-only", the_disk_of(backup));
    }

private:
    const std::shared_ptr<BackupSource> source_;
    const std::string description_;
};

class DirtyExport final : public Export {
public:
    DirtyExport(const ServedBackup &backup, std::size_t bitmap)
        : source_(backup.source), bitmap_(bitmap), description_(description_of(backup, bitmap))
    {
    }

    std::uint64_t size() const override { return source_->size(); }
    std::uint32_t preferred_block() const override { return preferred; }
    std::string description() const override { return description_; }

    Result<void> read(GuestOffset offset, MutableBytes bytes) override
    {
        return source_->read(offset, bytes);
    }
    Result<std::vector<Extent>> status(GuestOffset offset, std::uint64_t length) override
    {
        return dirty_status(*source_, source_->bitmaps()[bitmap_], offset.value, length);
    }

    static std::string description_of(const ServedBackup &backup, std::size_t bitmap)
    {
        return formatted("{}; block status tells {}, read-only", the_disk_of(backup),
                         the_changes_of(backup, bitmap));
    }

private:
    const std::shared_ptr<BackupSource> source_;
    const std::size_t bitmap_;
    const std::string description_;
};

class FileExport final : public Export {
public:
    FileExport(const ServedBackup &backup, std::optional<std::size_t> dirty,
               std::shared_ptr<const Qcow2File> file)
        : source_(backup.source),
          file_(std::move(file)),
          description_(description_of(backup, dirty))
    {
    }

    std::uint64_t size() const override { return file_->size(); }
    std::uint32_t preferred_block() const override { return preferred; }
    std::string description() const override { return description_; }

    Result<void> read(GuestOffset offset, MutableBytes bytes) override
    {
        return file_->read(*source_, offset.value, bytes);
    }
    Result<std::vector<Extent>> status(GuestOffset, std::uint64_t length) override
    {
        return std::vector<Extent>{{length, false, false}};
    }

    static std::string description_of(const ServedBackup &backup, std::optional<std::size_t> dirty)
    {
        if (!dirty)
            return formatted("the bytes of a qcow2 file: {}, read-only", the_disk_of(backup));
        const std::string over =
            backup.backing_file.empty() ? "" : formatted(", over {}", quote(backup.backing_file));
        return formatted(
            "the bytes of a qcow2 file: {}, as it was when backup {} began{}, read-only",
            the_changes_of(backup, *dirty), quote(backup.id), over);
    }

private:
    const std::shared_ptr<BackupSource> source_;
    const std::shared_ptr<const Qcow2File> file_;
    const std::string description_;
};

}  // namespace

void BackupExports::list(const ServedBackup &backup, std::vector<ExportName> &exports)
{
    const std::string name = std::string(prefix) + backup.id;
    const auto put = [&](const std::string &listed, std::string description) {
        if (exports.size() < ExportName::listed_max && listed.size() <= ExportName::bytes_max &&
            printable(listed) == listed)
            exports.push_back({listed, std::move(description)});
    };
    if (backup.whole) {
        put(name, FrozenDiskExport::description_of(backup));
        put(name + std::string(file_suffix), FileExport::description_of(backup, {}));
    }
    const auto &bitmaps = backup.source->bitmaps();
    for (std::size_t b = 0; b < bitmaps.size(); ++b) {
        const std::string dirty =
            name + std::string(dirty_suffix) + (bitmaps.size() == 1 ? "" : "/" + bitmaps[b].name);
        put(dirty, DirtyExport::description_of(backup, b));
        put(dirty + std::string(file_suffix), FileExport::description_of(backup, b));
    }
}

Result<BackupExports::What> BackupExports::find(const std::vector<ServedBackup> &backups,
                                                std::string_view name)
{
    name.remove_prefix(prefix.size());
    Error none(Errc::not_found, "no backup has an export of that name");
    for (const ServedBackup &backup : backups) {
        if (!name.starts_with(backup.id))
            continue;
        auto found = find(backup, name.substr(backup.id.size()));
        if (found || found.error().code != Errc::not_found)
            return found;
    }
    return none;
}

// rest: what of the name comes behind the ID.
Result<BackupExports::What> BackupExports::find(const ServedBackup &backup, std::string_view rest)
{
    const Error none(Errc::not_found, "the backup has no export of that name");
    const auto &bitmaps = backup.source->bitmaps();
    What what;
    what.backup = &backup;
    const auto is_dirty = [&](std::string_view bitmap) {
        const auto found = std::ranges::find(bitmaps, bitmap, &BackupBitmap::name);
        if (found != bitmaps.end())
            what.dirty = static_cast<std::size_t>(found - bitmaps.begin());
        return what.dirty.has_value();
    };
    // A bitmap may have a name that ends so, too.
    constexpr std::string_view named = "/dirty/";
    if (rest.starts_with(named) && is_dirty(rest.substr(named.size())))
        return what;
    what.file = rest.ends_with(file_suffix);
    if (what.file)
        rest.remove_suffix(file_suffix.size());
    if (rest.starts_with(named))
        return is_dirty(rest.substr(named.size())) ? Result<What>(what) : none;
    if (rest == dirty_suffix && bitmaps.size() > 1)
        return Error(Errc::invalid, "backup {} has several bitmaps: say which one, as in {}",
                     quote(backup.id),
                     quote(std::string(prefix) + backup.id + "/dirty/" + bitmaps[0].name));
    if (rest == dirty_suffix && !bitmaps.empty()) {
        what.dirty = 0;
        return what;
    }
    if (!rest.empty())
        return none;
    if (!backup.whole)
        return Error(Errc::invalid, "backup {} keeps nothing but what is dirty: {}",
                     quote(backup.id), quote(std::string(prefix) + backup.id + "/dirty"));
    return what;
}

Result<std::shared_ptr<const Qcow2File>> BackupExports::file(const What &what)
{
    const ServedBackup &backup = *what.backup;
    Locked lock(mutex_);
    std::erase_if(made_, [](const Made &made) { return made.backup.expired(); });
    for (const Made &made : made_)
        if (made.backup.lock() == backup.identity && made.dirty == what.dirty)
            return made.file;
    Qcow2File::Wish wish{what.dirty, {}, {}};
    if (what.dirty) {
        wish.backing_file = backup.backing_file;
        wish.backing_format = backup.backing_format;
    }
    std::shared_ptr<const Qcow2File> file = TRY(Qcow2File::make(*backup.source, wish));
    made_.push_back({backup.identity, what.dirty, file});
    return file;
}

Result<std::unique_ptr<Export>> BackupExports::open(const std::vector<ServedBackup> &backups,
                                                    std::string_view name)
{
    const What what = TRY(find(backups, name));
    if (const auto reason = what.backup->source->broken())
        return Error(Errc::io, "backup {} is broken: {}", quote(what.backup->id), *reason);
    if (what.file)
        return std::unique_ptr<Export>(
            std::make_unique<FileExport>(*what.backup, what.dirty, TRY(file(what))));
    if (what.dirty)
        return std::unique_ptr<Export>(new DirtyExport(*what.backup, *what.dirty));
    return std::unique_ptr<Export>(new FrozenDiskExport(*what.backup));
}

}  // namespace qcow2
