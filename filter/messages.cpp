// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/messages.h"

#include <syslog.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <vector>

#include <nbdkit-filter.h>

#include "filter/command_line.h"

// -D qcow2bitmap.bitmaps=1 (with -v): each time bits are made durable ahead of
// changes: what was armed, who waited, and for how long.
extern "C" {
NBDKIT_DLL_PUBLIC extern int qcow2bitmap_debug_bitmaps;
int qcow2bitmap_debug_bitmaps = 0;
}

namespace qcow2 {

int to_errno(Errc code)
{
    switch (code) {
    case Errc::io: return EIO;
    case Errc::lost: return EIO;
    case Errc::no_space: return ENOSPC;
    case Errc::corrupt: return EIO;
    case Errc::unsupported: return EIO;
    case Errc::read_only: return EROFS;
    case Errc::busy: return EBUSY;
    case Errc::not_found: return ENOENT;
    case Errc::exists: return EEXIST;
    case Errc::invalid: return EINVAL;
    case Errc::shut_down: return ESHUTDOWN;
    }
    return EIO;
}

namespace {

// Of the process that has loaded the filter.
struct Loaded {
    std::vector<std::string> arguments = server_arguments();
    pid_t process = ::getpid();
};
const Loaded &loaded()
{
    static const Loaded &as_it_was = *new Loaded;  // used as long as the process lives
    return as_it_was;
}

void warn(const std::string &line)
{
    const std::string warning = formatted("qcow2bitmap: warning: {}", printable(line));
    switch (place_of_warnings(loaded().arguments, ::getpid() != loaded().process)) {
    case WarningPlace::standard_error:
        std::fputs(formatted("nbdkit: {}\n", warning).c_str(), stderr);
        break;
    case WarningPlace::system_log: ::syslog(LOG_DAEMON | LOG_WARNING, "%s", warning.c_str()); break;
    case WarningPlace::nowhere: break;
    case WarningPlace::through_nbdkit: nbdkit_error("%s", warning.c_str()); break;
    }
}

}  // namespace

void prepare_warnings()
{
    loaded();
    set_log_sink(log_to_nbdkit);
}

WarningPlace place_of_warnings(std::span<const std::string> arguments, bool forked)
{
    if (arguments.empty())
        return WarningPlace::through_nbdkit;
    switch (log_target(arguments)) {
    case LogTarget::standard_error: return WarningPlace::standard_error;
    case LogTarget::system_log: return WarningPlace::system_log;
    case LogTarget::nothing: return WarningPlace::nowhere;
    case LogTarget::by_place: break;
    }
    // --run forks, and stays in the foreground.
    return forked && !stays_in_foreground(arguments) ? WarningPlace::system_log
                                                     : WarningPlace::standard_error;
}

void say_error(const Error &error) { nbdkit_error("%s", printable(error.what).c_str()); }

void log_to_nbdkit(LogLevel level, const std::string &line)
{
    switch (level) {
    case LogLevel::detail:
        if (qcow2bitmap_debug_bitmaps)
            nbdkit_debug("%s", printable(line).c_str());
        break;
    case LogLevel::debug: nbdkit_debug("%s", printable(line).c_str()); break;
    case LogLevel::warning: warn(line); break;
    }
}

}  // namespace qcow2
