// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What the engine does for the control channel (control_host.h).

#include <sys/stat.h>
#include <sys/statvfs.h>

#include <cstdlib>

#include "filter/command_line.h"
#include "filter/control_events.h"
#include "filter/control_host.h"
#include "filter/control_server.h"
#include "filter/control_socket.h"
#include "filter/local_file.h"
#include "filter/next_store.h"
#include "filter/served_image.h"

namespace qcow2 {

// At the prompt: what is relative is relative to where we are now.
Result<void> ServedImage::bind_control()
{
    if (config_.control.empty() || config_.maintenance)
        return {};
    control_socket_ = TRY(ControlSocket::bind(config_.control).in("qcow2-control="));
    const auto absolute = [](const std::string &path) -> std::string {
        const std::unique_ptr<char, decltype(&std::free)> made(nbdkit_absolute_path(path.c_str()),
                                                               std::free);
        return made ? made.get() : path;
    };
    nbd_uri_ = nbd_uri(server_arguments(), absolute).value_or("");
    return {};
}

Result<void> ServedImage::begin_control(nbdkit_backend *backend)
{
    if (!control_socket_)
        return {};
    backend_ = backend;
    control_host_ = std::make_unique<ControlHost>(*this);
    control_ = std::make_unique<ControlServer>(control_socket_->descriptor(), *control_host_);
    control_events_ = std::make_unique<ControlEvents>(*control_);
    set_notice_sink([](const Notice &notice) { of_server().control_events_->tell(notice); });
    return {};
}

// A command that is under way needs the engine.
void ServedImage::stop_control()
{
    if (control_)
        control_->stop();
    control_socket_.reset();
}

// The disk may have something to tell as long as it is there.
void ServedImage::end_control()
{
    set_notice_sink(nullptr);
    control_events_.reset();
    control_.reset();
}

void ServedImage::request_failed(std::string_view operation, const Error &error)
{
    if (control_events_)
        control_events_->tell_of_failure(operation, error);
}

Result<Disk *> ServedImage::visit()
{
    const std::vector<std::string> arguments = server_arguments();
    if (arguments.empty())
        return Error(Errc::unsupported,
                     "/proc/self/cmdline cannot be read, so it is not known whether the image "
                     "may be changed");
    const bool read_only = asks_for_read_only(arguments);
    TRY(connect(backend_, read_only));
    TRY(let_in(read_only));
    Locked lock(mutex_);
    ++visitors_;
    return disk_.get();
}

void ServedImage::end_visit()
{
    {
        Locked lock(mutex_);
        --visitors_;
    }
    let_go();
}

unsigned ServedImage::clients_of(const std::string &export_name)
{
    Locked lock(mutex_);
    const auto found = clients_of_.find(export_name);
    return found == clients_of_.end() ? 0 : found->second;
}

Result<void> ServedImage::quit()
{
    Locked lock(mutex_);
    if (disk_)
        TRY(disk_->stop().in(
            "the server goes on, for the file cannot be brought to what a clean stop leaves"));
    if (store_)
        store_->end();
    ending_ = true;
    lock_.reset();
    return {};
}

HostState ServedImage::state()
{
    Locked lock(mutex_);
    HostState state;
    state.clients = clients_ - visitors_;
    state.nbd_uri = nbd_uri_;
    if (store_) {
        state.can_grow = store_->can_grow();
        state.why_not_grow = store_->why_no_growth();
    }
    if (!file_)
        return state;
    state.file = file_->path();
    struct stat status;
    if (::fstat(file_->descriptor(), &status) == 0)
        state.actual_bytes = static_cast<std::uint64_t>(status.st_blocks) * 512;
    struct statvfs space;
    if (file_->regular() && ::fstatvfs(file_->descriptor(), &space) == 0)
        state.free_bytes = static_cast<std::uint64_t>(space.f_bavail) * space.f_frsize;
    return state;
}

}  // namespace qcow2
