// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/control_host.h"

#include "filter/engine.h"

namespace qcow2 {

Result<Disk *> ControlHost::enter()
{
    TRY(engine_.visit());
    return &engine_.disk();
}

void ControlHost::leave() { engine_.end_visit(); }

HostState ControlHost::state() { return engine_.state(); }

std::vector<HostExport> ControlHost::exports() { return {{"", engine_.state().clients}}; }

Result<void> ControlHost::quit() { return engine_.quit(); }

bool ControlHost::ending() const { return engine_.ending(); }

}  // namespace qcow2
