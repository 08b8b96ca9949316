// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/unit/filter/failing_calls.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <syslog.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>

namespace qcow2::test {

namespace {

struct Plan {
    bool armed = false;
    Call call;
    int cause;
    unsigned until, times;
};
Plan plan;

bool fails(Call call)
{
    if (!plan.armed || plan.call != call)
        return false;
    if (plan.until > 1) {
        --plan.until;
        return false;
    }
    if (plan.times == 0)
        return false;
    --plan.times;
    errno = plan.cause;
    return true;
}

// The C library's own. Where offsets are wider than long its functions have other names.
template <class Function>
Function *real(const char *name, const char *name64)
{
    return reinterpret_cast<Function *>(
        ::dlsym(RTLD_NEXT, sizeof(long) < sizeof(off_t) ? name64 : name));
}

void keep(int priority, const char *format, std::va_list arguments)
{
    char text[1000];
    std::vsnprintf(text, sizeof text, format, arguments);
    system_log() = {priority, text};
}

}  // namespace

FailingCall::FailingCall(Call call, int cause, unsigned nth, unsigned times)
{
    plan = {true, call, cause, nth, times};
}

FailingCall::~FailingCall() { plan.armed = false; }

SystemLog &system_log()
{
    static SystemLog log;
    return log;
}

}  // namespace qcow2::test

using namespace qcow2::test;

extern "C" {

int open(const char *path, int flags, ...)
{
    mode_t mode = 0;
    if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) {
        std::va_list arguments;
        va_start(arguments, flags);
        mode = va_arg(arguments, mode_t);
        va_end(arguments);
    }
    static const auto real_one = real<int(const char *, int, ...)>("open", "open64");
    return fails(Call::open) ? -1 : real_one(path, flags, mode);
}

DIR *opendir(const char *path)
{
    static const auto real_one = real<DIR *(const char *)>("opendir", "opendir");
    return fails(Call::opendir) ? nullptr : real_one(path);
}

dirent *readdir(DIR *directory)
{
    static const auto real_one = real<dirent *(DIR *)>("readdir", "readdir64");
    return fails(Call::readdir) ? nullptr : real_one(directory);
}

int fstat(int descriptor, struct stat *status) noexcept
{
    static const auto real_one = real<int(int, struct stat *)>("fstat", "fstat64");
    return fails(Call::fstat) ? -1 : real_one(descriptor, status);
}

void syslog(int priority, const char *format, ...)
{
    std::va_list arguments;
    va_start(arguments, format);
    keep(priority, format, arguments);
    va_end(arguments);
}

// What it is called where the compiler looks at lengths.
void __syslog_chk(int priority, int, const char *format, ...)
{
    std::va_list arguments;
    va_start(arguments, format);
    keep(priority, format, arguments);
    va_end(arguments);
}

}  // extern "C"
