// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What programs that watch the disk should know at once, beside what the log says
// to people: the control channel makes events of these. The roof sets the sink
// before the engine is used; without one, nobody is told.

#pragma once

#include <string>

namespace qcow2 {

struct Notice {
    enum class Kind {
        bitmap_given_up,  // name: of the bitmap; it is not kept true any more
        image_corrupted,  // no name; the image is marked as corrupt
        backup_broken,    // name: the backup's ID
        backup_expired,   // name: the backup's ID; no reason
    } kind;
    std::string name;
    std::string reason;  // a sentence
};

using NoticeSink = void (*)(const Notice &notice);

// Not to be called while other threads use the engine.
void set_notice_sink(NoticeSink sink);

// Any thread, with any locks held: the sink takes none but its own, and waits for nobody.
void notify(const Notice &notice);

}  // namespace qcow2
