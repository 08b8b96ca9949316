// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ServedImage: what can be told at the prompt, before nbdkit lets the terminal go: that the file
// cannot be opened, locked or written, what its image is, and what its keys would do.

#include <cstdlib>
#include <string>

#include "core/base/arith.h"
#include "core/base/log.h"
#include "core/check/repair.h"
#include "core/format/header.h"
#include "core/format/limits.h"
#include "core/image/create.h"
#include "filter/command_line.h"
#include "filter/image_lock.h"
#include "filter/local_file.h"
#include "filter/local_store.h"
#include "filter/messages.h"
#include "filter/rehearsal_store.h"
#include "filter/served_image.h"
#include "filter/server_user.h"

namespace qcow2 {

namespace {

Result<bool> has_data_file(ByteStore &store)
{
    Buffer bytes(std::min<std::uint64_t>(store.size(), sizeof(on_disk::Header)));
    TRY(store.read(0, bytes).in("header"));
    return (TRY(decode_header(bytes).in("header")).incompatible_features &
            incompatible::external_data_file) != 0;
}

}  // namespace

// The lock that will be needed, as far as that is known: so a second server, or
// one on a file that others read, is told at the prompt. The file stays open:
// it carries the lock.
ImageLock::Kind ServedImage::lock_at_prompt() const
{
    const bool will_write = (!config_.maintenance || config_.maintenance->changes) &&
                            below_.identity && !below_.overlay && file_->writable() &&
                            !server_asked_for_read_only();
    return will_write ? ImageLock::Kind::writer : ImageLock::Kind::reader;
}

// W5: nothing is believed after a flush that failed; but who tries it again below
// us does not tell us of it.
Result<void> ServedImage::check_retrying() const
{
    if (below_.retrying.empty())
        return {};
    const std::string what = formatted(
        "the {} filter below hides failed flushes, and with them lost writes", below_.retrying);
    if (config_.disk.bitmap_sync == BitmapSync::durable)
        return Error(Errc::unsupported, "bitmap-sync=durable: {}; leave it out", what);
    if (!server_asked_for_read_only())
        log_warning(
            "{}: after an error below, disk and bitmaps may not be what they say; leave it out",
            what);
    return {};
}

// What no filter can mend: nbdkit before 1.34 ends by an assertion when a client goes while several
// of its requests are under way ("fix rare assertion failure", its release notes of 1.34). With one
// thread for a connection there is one request under way.
void ServedImage::warn_of_clients_that_vanish() const
{
    constexpr bool mended = NBDKIT_VERSION_MAJOR > 1 || NBDKIT_VERSION_MINOR >= 34;
    if (mended || serialised_ || config_.maintenance || has_one_thread(server_arguments()))
        return;
    log_warning("nbdkit " NBDKIT_VERSION_STRING
                " ends all of the server when a client vanishes with "
                "requests under way; nbdkit 1.34 does not, nor does -t 1, which is slower: one "
                "request of a client at a time");
}

Result<void> ServedImage::get_ready(const ModulesBelow &below, int thread_model)
{
    Locked lock(mutex_);
    below_ = below;
    if (const std::string keys = config_.keys_that_change(); config_.disk.snapshot && !keys.empty())
        return Error(Errc::invalid,
                     "qcow2-snapshot= serves a snapshot, which does not change; but {} asks for a "
                     "change",
                     keys);
    serialised_ = thread_model < NBDKIT_THREAD_MODEL_PARALLEL;
    TRY(check_retrying());
    TRY(look_at_file_as_server());
    TRY(bind_control());
    warn_of_clients_that_vanish();
    return {};
}

// As the user that the server will be: what that one may not open would be refused to each
// client. (Maintenance at the prompt is done as the user that runs it. And of fd= no name is
// opened.)
Result<void> ServedImage::look_at_file_as_server()
{
    const bool by_name =
        !config_.files.empty() && !config_.files.front().starts_with("/proc/self/fd/");
    const ServerUser::Scope as_server(
        config_.maintenance || !by_name ? ServerUser() : ServerUser::of(server_arguments()));
    return look_at_file();
}

// What can be told of the file at the prompt; and maintenance, if that can be done there.
Result<void> ServedImage::look_at_file()
{
    if (config_.maintenance)
        TRY(check_maintenance_key());
    // The plugin takes the last one and says nothing. (Others have several.)
    if (below_.file_plugin && config_.files.size() > 1)
        return Error(Errc::invalid, "file=: given twice, {} and {}; this filter serves one image",
                     config_.files[0], config_.files[1]);
    if (!below_.file_plugin || config_.files.empty())
        return {};
    auto file = LocalFile::open(config_.files.front());
    if (!file)
        return below_.identity ? Result<void>(std::move(file).error()) : Result<void>();
    file_ = std::move(*file);
    lock_ = std::make_unique<ImageLock>(*file_);
    if (config_.lock)
        TRY(lock_->take(lock_at_prompt()));
    if (config_.maintenance)
        return maintain_at_prompt() ? maintain_file() : check_foreground();
    return below_.identity ? check_image() : Result<void>();
}

// Relative names in the image are relative to the image, if its bytes are those
// of a file that we know.
DiskOptions ServedImage::disk_options()
{
    DiskOptions options = config_.disk;
    options.files = &config_.named_files;
    options.scratch = &config_.scratch;
    if (file_)
        config_.scratch.set_image(file_->path());
    if (file_ && below_.identity) {
        options.path = file_->path();
        options.identity = file_->identity();
    }
    return options;
}

Result<void> ServedImage::check_image()
{
    const bool asked = server_asked_for_read_only();
    // Somebody who asks for a snapshot knows that it is read-only.
    read_only_said_ = config_.disk.snapshot.has_value();
    const bool for_reading = asked || (!file_->writable() && !below_.overlay);
    const std::string path = shell_word(file_->path());
    if (for_reading && !asked && !config_.disk.snapshot) {
        const std::string what =
            formatted("{} cannot be written: {}", path, words_for_errno(file_->why_not_writable()));
        if (const std::string keys = config_.keys_that_change(); !keys.empty())
            return Error(Errc::read_only, "{}; but {} asks for a change", what, keys);
        log_warning("{}; the disk is served read-only", what);
        read_only_said_ = true;
    }
    const auto store = TRY(ReadOnlyLocalStore::open(*file_, for_reading));
    if (config_.create_size && !for_reading && TRY(is_empty(*store, *config_.create_size)))
        return {};  // made when the first client comes
    DiskOptions options = disk_options();
    options.read_only = for_reading;
    options.repaired_first = !for_reading;
    const auto disk = TRY(Disk::open(*store, options).in(path));
    say_what_is_missing(*disk);
    if (for_reading)
        return {};
    announce(*disk);
    if (options.size_min != 0 && align_up(options.size_min, limits::sector) < disk->size())
        log_warning("{}: the disk has {} bytes already, and stays so; qcow2-resize={} is less",
                    path, disk->size(), options.size_min);
    report(*disk, true);
    if (disk->why_read_only() && !read_only_said_) {
        log_warning("{}: the disk is served read-only: {}", path, disk->why_read_only()->what);
        read_only_said_ = true;
    }
    if (disk->why_read_only())
        return {};
    if (TRY(needs_repair(*store))) {
        log_warning(
            "{}: the image was not closed cleanly (dirty bit); its refcounts are repaired before "
            "the first client is let in",
            path);
        return {};
    }
    return file_->regular() || config_.keys_that_change().empty() ? Result<void>()
                                                                  : rehearse(*store).in(path);
}

// What the keys ask for is done for the first client. On a block device, which does
// not grow, there may be no room for it: then every client would be refused, and so
// the server is, now. It is tried in memory.
Result<void> ServedImage::rehearse(ByteStore &store)
{
    // All that there is to say will be said when it is done.
    struct Silence {
        Silence() { set_log_sink(nullptr); }
        ~Silence() { set_log_sink(log_to_nbdkit); }
    } silence;
    if (TRY(has_data_file(store)))
        return {};  // which would be made longer
    RehearsalStore rehearsal(store);
    const auto disk = TRY(Disk::open(rehearsal, disk_options()));
    Result<void> done = disk->begin_writing();
    if (!done && done.error().code == Errc::no_space)
        done.error().what = formatted(
            "{} asks for a change, and there is no room for it: {}; make the device larger",
            config_.keys_that_change(), done.error().what);
    return done;
}

}  // namespace qcow2
