// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ServedImage: the server that has a maintenance key, and serves nothing.

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/base/log.h"
#include "filter/command_line.h"
#include "filter/local_file.h"
#include "filter/local_store.h"
#include "filter/maintenance.h"
#include "filter/next_store.h"
#include "filter/served_image.h"
#include "filter/server_end.h"

namespace qcow2 {

// On a local file all is done at the prompt: then the result is seen, and the
// exit code is ours, whether nbdkit is to be a daemon or not.
bool ServedImage::maintain_at_prompt() const
{
    return file_ && (config_.maintenance->changes ? below_.transparent : below_.identity);
}

// What can be told before anything is opened. Here -r is more than a hint.
Result<void> ServedImage::check_maintenance_key()
{
    find_output();
    const std::vector<std::string> arguments = server_arguments();
    const std::string &key = config_.maintenance->key;
    if (config_.maintenance->changes && arguments.empty())
        return Error(Errc::unsupported,
                     "{}: /proc/self/cmdline cannot be read, so it is not known whether the image "
                     "may be changed",
                     key);
    if (config_.maintenance->changes && asks_for_read_only(arguments))
        return Error(Errc::read_only, "{} asks for a change, but the server is read-only (-r)",
                     key);
    if (config_.maintenance->changes && config_.disk.snapshot)
        return Error(Errc::invalid,
                     "qcow2-snapshot= serves a snapshot, which does not change; but {} asks for a "
                     "change of the disk",
                     key);
    std::string ignored = config_.keys_that_change();
    if (config_.disk.snapshot)
        ignored += ignored.empty() ? "qcow2-snapshot=" : ", qcow2-snapshot=";
    if (!ignored.empty())
        log_warning("{}: nothing is served; ignored: {}", key, ignored);
    return {};
}

// A daemon has no terminal when it is time for the result.
Result<void> ServedImage::check_foreground() const
{
    const std::vector<std::string> arguments = server_arguments();
    if (arguments.empty() || stays_in_foreground(arguments))
        return {};
    return Error(Errc::invalid,
                 "{}: the image is no local file that is known at the prompt; add -f to see the "
                 "result",
                 config_.maintenance->key);
}

Result<void> ServedImage::maintain_file()
{
    if (config_.maintenance->changes && !file_->writable())
        return Error(Errc::read_only, "{} cannot be written: {}; but {} asks for a change",
                     shell_word(file_->path()), std::strerror(file_->why_not_writable()),
                     config_.maintenance->key);
    LocalStore store(*file_, TRY(file_->length()));
    TRY(maintain(store).in(shell_word(file_->path())));
    // Nothing of nbdkit is there yet that would have to be taken down.
    std::exit(*exit_code_);
}

Result<void> ServedImage::after_fork(nbdkit_backend *backend)
{
    Locked lock(mutex_);
    if (!config_.maintenance)
        return begin_control(backend);
    // Whatever happens, and not before: layers below may refuse to work then.
    struct ShutDown {
        ~ShutDown() { nbdkit_shutdown(); }
    } at_the_end;
    exit_code_ = Maintenance::failed;
    const Result<void> done = maintain_layer(backend);
    if (!done)
        exit_code_ = Maintenance::failed;
    abandon();
    return done;
}

Result<void> ServedImage::maintain_layer(nbdkit_backend *backend)
{
    const Maintenance &maintenance = *config_.maintenance;
    const ServerEnd::Scope may_end;
    store_ = TRY(NextStore::open(backend, !maintenance.changes, serialised_));
    TRY(hold_file());
    store_->keep_size(why_size_is_kept());
    if (maintenance.changes && store_->read_only())
        return Error(Errc::read_only, "{} asks for a change, but the layer below is read-only",
                     maintenance.key);
    return maintain(*store_);
}

// Standard output as it was at the prompt: later nbdkit puts /dev/null in its
// place, and with -s a client is at its other end.
void ServedImage::find_output()
{
    output_ = nbdkit_stdio_safe() ? ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3) : -1;
    if (output_ == -1)
        output_ = STDERR_FILENO;
}

Result<void> ServedImage::print(std::string_view text) const
{
    while (!text.empty()) {
        const ssize_t n = ::write(output_, text.data(), text.size());
        if (n == -1 && errno != EINTR)
            return Error(Errc::io, "printing the result: {}", std::strerror(errno));
        text.remove_prefix(n == -1 ? 0 : static_cast<std::size_t>(n));
    }
    return {};
}

Result<void> ServedImage::maintain(ByteStore &store)
{
    const Maintenance &maintenance = *config_.maintenance;
    DiskOptions options = disk_options();
    options.bitmaps.clear();
    options.recover_all_dirty = false;
    options.mends_bitmaps = maintenance.mends_bitmaps;
    options.snapshot.reset();
    options.size_min = 0;
    options.read_only = !maintenance.changes;
    if (maintenance.changes && maintenance.repaired_first)
        TRY(repair_if_dirty(store, options));
    const Maintenance::Outcome outcome = TRY(maintenance.work(store, options).in(maintenance.key));
    exit_code_ = outcome.exit_code;
    return print(outcome.text);
}

}  // namespace qcow2
