// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/served_image.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "core/base/log.h"
#include "core/check/repair.h"
#include "core/image/create.h"
#include "filter/control_events.h"
#include "filter/control_host.h"
#include "filter/control_server.h"
#include "filter/control_socket.h"
#include "filter/idle_thread.h"
#include "filter/image_lock.h"
#include "filter/local_file.h"
#include "filter/local_store.h"
#include "filter/messages.h"
#include "filter/next_store.h"
#include "filter/server_end.h"

// -D qcow2bitmap.idle_ms=N: after so many milliseconds without a change the
// file is brought to what a clean stop leaves.
extern "C" {
NBDKIT_DLL_PUBLIC extern int qcow2bitmap_debug_idle_ms;
int qcow2bitmap_debug_idle_ms = 3000;
}

namespace qcow2 {

namespace {

// A log has one line for each message.
void say_each_line(std::string_view text)
{
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        log_warning(std::string(text.substr(0, end)));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
}

}  // namespace

ServedImage::ServedImage() = default;
ServedImage::~ServedImage() = default;

ServedImage &ServedImage::of_server()
{
    // Never destroyed: a server that ends by exit() must not close anything.
    static ServedImage &engine = *new ServedImage;
    return engine;
}

bool ServedImage::rotational() const { return store_->rotational(); }

Result<void> ServedImage::connect(nbdkit_backend *backend, bool read_only)
{
    Locked lock(mutex_);
    if (config_.maintenance)
        return Error(Errc::busy, "{}: nothing is served", config_.maintenance->key);
    if (ending_)
        return Error(Errc::shut_down, "the server is about to end");
    if (may_open_anew()) {
        log_debug("all is opened from the beginning, after: {}", disk_->failed()->what);
        abandon();
    }
    if (disk_)
        return {};
    Result<void> opened = open(backend, read_only);
    if (!opened)
        abandon();
    return opened;
}

// For who meets the end of the layer below: what keeps it there, and what helps.
std::string ServedImage::why_size_is_kept() const
{
    if (!below_.file_plugin)
        return "only behind nbdkit's file plugin does it grow";
    if (below_.keeps_size.empty())
        return "it is not known which file it is";
    std::string why = formatted("the {} filter below keeps it at its size", below_.keeps_size);
    if (below_.identity && file_ && file_->regular())
        why += formatted("; room behind the image is used, and can be made before nbdkit starts: "
                         "truncate -s +1G {}",
                         shell_word(file_->path()));
    return why;
}

Result<void> ServedImage::open(nbdkit_backend *backend, bool read_only)
{
    const ServerEnd::Scope may_end;
    store_ = TRY(NextStore::open(backend, read_only, serialised_, file_.get()));
    TRY(hold_file());
    if (file_ && below_.transparent && !store_->read_only())
        store_->allow_growth(*file_);
    else
        store_->keep_size(why_size_is_kept());
    if (config_.create_size && !store_->read_only())
        TRY(create());
    DiskOptions options = disk_options();
    options.read_only = read_only;
    if (!store_->read_only())
        TRY(repair_if_dirty(*store_, options));
    disk_ = TRY(Disk::open(*store_, options));
    exports_ = std::make_unique<Exports>(*disk_);
    say_what_is_there(read_only);
    return {};
}

// qcow2-create=: an image that is there already is left as it is. A file that is there
// and no image is an error later, when it is opened.
Result<void> ServedImage::create()
{
    // Our own descriptor, if it is the layer's file, knows where holes are.
    std::unique_ptr<ReadOnlyLocalStore> file;
    if (file_ && below_.transparent && file_->held_by_layer() == LocalFile::Held::for_writing)
        file = TRY(ReadOnlyLocalStore::open(*file_, true));
    if (!TRY(is_empty(file ? static_cast<ByteStore &>(*file) : *store_, *config_.create_size)))
        return {};
    log_debug("a new image with a disk of {} bytes", *config_.create_size);
    const bool was_empty = store_->size() == 0;
    Result<void> created = create_image(*store_, *config_.create_size).in("qcow2-create=");
    // Nobody has seen anything of it: the next one begins with an empty file again.
    if (!created && was_empty && store_->size() != 0)
        TRY(store_->cut(0));
    return created;
}

// An image with lazy refcounts that was not closed cleanly, as `qemu-img check
// -r all` would. One that cannot be repaired is served read-only, and one that
// would be refused or served read-only all the same is not touched.
Result<void> ServedImage::repair_if_dirty(ByteStore &store, DiskOptions options)
{
    const auto needed = needs_repair(store);
    if (!needed || !*needed)
        return {};  // a file that is no image is an error when it is opened
    options.repaired_first = true;
    if (TRY(Disk::open(store, options))->why_read_only())
        return {};
    auto repaired = repair(store, RepairKind::all);
    if (!repaired && (repaired.error().code == Errc::io || repaired.error().code == Errc::lost ||
                      repaired.error().code == Errc::shut_down))
        return std::move(repaired).error().in("repairing the refcounts");
    if (!repaired) {
        log_warning("the image cannot be repaired: {}", repaired.error().what);
        return {};
    }
    log_warning("the image was not closed cleanly; its refcounts have been repaired");
    if (!repaired->after.sound())
        say_each_line(formatted("not all could be repaired:\n{}", repaired->after.text()));
    return {};
}

bool ServedImage::may_open_anew() const
{
    return disk_ && disk_->failed() && clients_ == 0 && leaving_ == 0 &&
           !disk_->failed_after_flush() && !store_->flush_failed();
}

// After a failure, as if nothing had been tried.
void ServedImage::abandon()
{
    idle_.reset();
    writing_ = false;
    exports_.reset();
    disk_.reset();
    store_.reset();
    if (lock_ && config_.lock) {
        if (const auto done = lock_->take(lock_at_prompt()); !done)
            log_debug(done.error().what);
    }
}

// The file may have been replaced since we looked at it. The layer has opened
// the one that had the name then, and that one is to be locked. Whether it is the
// one that we have its descriptors tell; the name is asked where they do not.
Result<void> ServedImage::find_file()
{
    if (config_.files.size() != 1)
        return {};
    const LocalFile::Held held = file_ ? file_->held_by_layer() : LocalFile::Held::no;
    if (held != LocalFile::Held::no && (held != LocalFile::Held::unknown || file_->still_named()))
        return {};
    auto file = LocalFile::open(config_.files.front());
    if (!file && file.error().code == Errc::io)
        return std::move(file).error();  // not now
    lock_.reset();
    file_.reset();
    if (!file) {
        log_debug("no lock: {}", file.error().what);
        return {};
    }
    file_ = std::move(*file);
    lock_ = std::make_unique<ImageLock>(*file_);
    return {};
}

// As the layer holds the file, so do we: two servers may well have overlays on
// one base. Before the first byte is read.
Result<void> ServedImage::hold_file()
{
    TRY(find_file());
    if (!file_ || !config_.lock)
        return {};
    switch (file_->held_by_layer()) {
    case LocalFile::Held::no:
    case LocalFile::Held::unknown: break;
    case LocalFile::Held::for_reading: return lock_->take(ImageLock::Kind::reader);
    case LocalFile::Held::for_writing: return lock_->take(ImageLock::Kind::writer);
    }
    // Nobody knows (there is no /proc): as it must be if it is this file. What
    // other plugins have in it, if anything, they may have in several.
    if (!below_.file_plugin)
        return {};
    return lock_->take(store_->read_only() || below_.overlay ? ImageLock::Kind::reader
                                                             : ImageLock::Kind::writer);
}

Result<void> ServedImage::begin_writing()
{
    if (writing_ || disk_->why_read_only())
        return {};
    {
        const ServerEnd::Scope may_end;
        TRY(disk_->begin_writing());
    }
    report(*disk_, false);
    idle_ =
        std::make_unique<IdleThread>(*disk_, std::chrono::milliseconds(qcow2bitmap_debug_idle_ms));
    writing_ = true;
    return {};
}

Result<void> ServedImage::check_open() const
{
    // Another client may have tried in vain since connect().
    return disk_ ? Result<void>() : Error(Errc::io, "the image is not open; the log says why");
}

Result<std::vector<ExportName>> ServedImage::exports()
{
    Locked lock(mutex_);
    TRY(check_open());
    return exports_->list();
}

Result<std::unique_ptr<Export>> ServedImage::enter(bool read_only, std::string_view export_name)
{
    TRY(let_in(read_only || !export_name.empty()));
    // Now the disk stays. To look into it may take its time, and keeps nobody else out.
    struct Leaving {
        ServedImage &engine;
        bool stays = false;
        ~Leaving()
        {
            if (!stays)
                engine.let_go();
        }
    } leaving{*this};
    auto served = TRY(exports_->open(export_name));
    Locked lock(mutex_);
    ++clients_of_[std::string(export_name)];
    leaving.stays = true;
    return served;
}

// One more client.
Result<void> ServedImage::let_in(bool read_only)
{
    Locked lock(mutex_);
    TRY(check_open());
    // A filter above may open us for reading in a server for writing.
    if (!read_only)
        TRY(begin_writing());
    if (const std::optional<Error> failed = disk_->failed())
        return *failed;
    ++clients_;
    return {};
}

void ServedImage::leave(const std::string &export_name)
{
    {
        Locked lock(mutex_);
        const auto name = clients_of_.find(export_name);
        if (--name->second == 0)
            clients_of_.erase(name);
    }
    let_go();
}

// Not left to close(): when the server is about to end, layers below may refuse
// to work (delay and rate do, for nbdkit does not let them sleep), and it may be
// killed before.
void ServedImage::let_go()
{
    {
        Locked lock(mutex_);
        if (--clients_ != 0 || !writing_)
            return;
        ++leaving_;  // idle_ stays
    }
    // New clients need not wait for that.
    idle_->settle_now();
    Locked lock(mutex_);
    --leaving_;
}

Result<void> ServedImage::close()
{
    stop_control();
    Locked lock(mutex_);
    idle_.reset();
    Result<void> closed;
    if (disk_) {
        exit_code_ = Maintenance::failed;
        closed = disk_->close();
        if (closed)
            exit_code_.reset();
        else
            closed = std::move(closed).error().in(
                "the file is not as a clean stop leaves it, but as after a crash");
    }
    exports_.reset();
    disk_.reset();
    if (store_)
        log_debug("{} small writes were made durable without a flush",
                  store_->durable_alone_count());
    store_.reset();
    lock_.reset();
    file_.reset();
    end_control();
    return closed;
}

// nbdkit's own exit code says only that it was told to end; not how maintenance
// went, nor that close() failed.
void ServedImage::unload()
{
    Locked lock(mutex_);
    if (!exit_code_ || *exit_code_ == Maintenance::done)
        return;
    std::fflush(nullptr);  // as exit() would
    ::_exit(*exit_code_);
}

}  // namespace qcow2
