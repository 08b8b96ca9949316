// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ControlHost: the engine, as the commands see it.

#pragma once

#include "core/control/host.h"

namespace qcow2 {

class ServedImage;

class ControlHost final : public Host {
public:
    // The engine outlives it.
    explicit ControlHost(ServedImage &engine) : engine_(engine) {}

    Result<Disk *> enter() override;
    void leave() override;
    HostState state() override;
    std::vector<HostExport> exports() override;
    Result<void> quit() override;
    bool ending() const override;

private:
    ServedImage &engine_;
};

}  // namespace qcow2
