// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/control_host.h"

#include "filter/served_image.h"

namespace qcow2 {

Result<Disk *> ControlHost::enter() { return engine_.visit(); }

void ControlHost::leave() { engine_.end_visit(); }

HostState ControlHost::state() { return engine_.state(); }

// Before the disk is open it is known of one.
std::vector<HostExport> ControlHost::exports()
{
    const auto listed = engine_.exports();
    if (!listed)
        return {{"", 0}};
    std::vector<HostExport> exports;
    for (const ExportName &one : *listed)
        exports.push_back({one.name, engine_.clients_of(one.name)});
    return exports;
}

Result<void> ControlHost::quit() { return engine_.quit(); }

bool ControlHost::ending() const { return engine_.ending(); }

}  // namespace qcow2
