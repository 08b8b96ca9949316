// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// ServedImage: what it says of the image to the person at the terminal, each thing once: at the
// prompt if it is known there, else when the first client comes.

#include <string>

#include "core/base/log.h"
#include "filter/command_line.h"
#include "filter/local_file.h"
#include "filter/served_image.h"

namespace qcow2 {

void ServedImage::say_once(const std::string &line)
{
    if (reported_.insert(line).second)
        log_warning(line);
}

// Of a file that was cut; at the prompt, if it is known there.
void ServedImage::say_what_is_missing(const Disk &disk)
{
    if (disk.what_is_missing())
        say_once(file_ ? formatted("{}: {}", shell_word(file_->path()), *disk.what_is_missing())
                       : *disk.what_is_missing());
}

// Once: at the prompt if it is known there.
void ServedImage::announce(const Disk &disk)
{
    if (!announced_)
        for (const std::string &line : disk.announcements())
            log_warning(line);
    announced_ = true;
}

// Each line once: warnings at the prompt, if they are known there, the rest when
// all that the keys ask for has been done.
void ServedImage::report(const Disk &disk, bool at_prompt)
{
    // How much is dirty takes reading all of the bitmaps.
    const bool how_much = !at_prompt && asks_to_be_verbose(server_arguments());
    for (const ReportLine &line : disk.report(how_much)) {
        if ((at_prompt && line.level != LogLevel::warning) || !reported_.insert(line.text).second)
            continue;
        line.level == LogLevel::warning ? log_warning(line.text) : log_debug(line.text);
    }
}

void ServedImage::say_what_is_there(bool read_only)
{
    say_what_is_missing(*disk_);
    if (!read_only)
        announce(*disk_);
    // Else when what the keys ask for has been done.
    if (read_only || disk_->why_read_only())
        report(*disk_, false);
    if (!disk_->why_read_only())
        return;
    if (!read_only && !read_only_said_)
        log_warning("the disk is served read-only: {}", disk_->why_read_only()->what);
    if (const std::string keys = config_.keys_that_change(); !keys.empty())
        log_warning("{} is ignored: the disk is served read-only", keys);
    read_only_said_ = true;
}

}  // namespace qcow2
