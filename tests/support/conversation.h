// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// A host for the commands of the control channel, with a small disk in memory, and
// a conversation with it: bytes in, lines out.

#pragma once

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "core/control/host.h"
#include "core/control/monitor.h"
#include "core/image/create.h"
#include "tests/support/memory_store.h"

namespace qcow2::test {

class MemoryHost final : public Host {
public:
    static constexpr std::uint64_t disk_size = 1 << 20;

    // The disk is made when somebody wants it.
    explicit MemoryHost(bool read_only = false, ScratchMaker *scratch = nullptr)
        : store_(0), read_only_(read_only), scratch_(scratch)
    {
    }

    Result<Disk *> enter() override
    {
        ++entered;
        if (ending_)
            return Error(Errc::shut_down, "the server is about to end");
        return &disk();
    }
    void leave() override { ++left; }
    HostState state() override
    {
        HostState state;
        state.file = "/disk.qcow2";
        return state;
    }
    std::vector<HostExport> exports() override { return {{"", 0}}; }
    Result<void> quit() override
    {
        Result<void> stopped = disk().stop();
        ending_ = stopped.has_value();
        return stopped;
    }
    bool ending() const override { return ending_; }

    Disk &disk()
    {
        if (!disk_)
            make();
        return *disk_;
    }
    StoreImage image() const { return store_.image(); }

    unsigned entered = 0, left = 0;

private:
    void make()
    {
        const Result<void> created = create_image(store_, disk_size);
        DiskOptions options;
        options.read_only = read_only_;
        options.scratch = scratch_;
        auto opened = Disk::open(store_, options);
        if (!created || !opened || !(*opened)->begin_writing())
            throw std::runtime_error("the disk cannot be made");
        disk_ = std::move(*opened);
    }

    MemoryStore store_;
    const bool read_only_;
    ScratchMaker *const scratch_;
    std::unique_ptr<Disk> disk_;
    bool ending_ = false;
};

// What is answered to these bytes, sent in pieces of so many.
inline std::string converse(Monitor &monitor, Host &host, std::string_view bytes,
                            std::size_t piece = std::string::npos)
{
    std::string said;
    while (!bytes.empty() && !monitor.ended()) {
        monitor.take(bytes.substr(0, piece));
        bytes.remove_prefix(std::min(piece, bytes.size()));
        while (!monitor.ended()) {
            const auto turn = monitor.next();
            if (!turn)
                break;
            said +=
                turn->command
                    ? Monitor::answer(turn->id, run_command(*turn->command, host, turn->arguments))
                    : turn->answer;
        }
    }
    return said;
}

inline std::vector<std::string> lines_of(std::string_view said)
{
    std::vector<std::string> lines;
    for (std::size_t end; (end = said.find("\r\n")) != said.npos; said.remove_prefix(end + 2))
        lines.emplace_back(said.substr(0, end));
    if (!said.empty())
        lines.push_back("unfinished: " + std::string(said));
    return lines;
}

}  // namespace qcow2::test
