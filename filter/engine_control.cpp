// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What the engine does for the control channel (control_host.h).

#include "filter/command_line.h"
#include "filter/control_host.h"
#include "filter/control_server.h"
#include "filter/control_socket.h"
#include "filter/engine.h"
#include "filter/local_file.h"

namespace qcow2 {

Result<void> Engine::begin_control(nbdkit_backend *backend)
{
    if (!control_socket_)
        return {};
    backend_ = backend;
    control_host_ = std::make_unique<ControlHost>(*this);
    control_ = std::make_unique<ControlServer>(control_socket_->descriptor(), *control_host_);
    return {};
}

Result<void> Engine::visit()
{
    const bool read_only = server_asked_for_read_only();
    TRY(connect(backend_, read_only));
    Locked lock(mutex_);
    TRY(check_open());
    TRY(let_in(!read_only));
    ++visitors_;
    return {};
}

Result<void> Engine::quit()
{
    Locked lock(mutex_);
    if (disk_)
        TRY(disk_->stop().in("the server goes on, for the file cannot be brought to what a clean stop leaves"));
    ending_ = true;
    lock_.reset();
    return {};
}

HostState Engine::state()
{
    Locked lock(mutex_);
    HostState state;
    state.clients = clients_ - visitors_;
    if (file_)
        state.file = file_->path();
    return state;
}

}  // namespace qcow2
