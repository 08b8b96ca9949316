// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// For LD_PRELOAD: what is written to a file that has no name any more, as scratch has
// none, takes SCRATCH_DELAY_US microseconds longer, and fails with EIO if SCRATCH_FAILS
// is set.

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int has_no_name(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0)
        return 0;
    path[n] = '\0';
    return strstr(path, " (deleted)") != NULL;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset)
{
    static ssize_t (*next)(int, const void *, size_t, off64_t);
    if (!next)
        next = (ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    if (has_no_name(fd)) {
        const char *delay = getenv("SCRATCH_DELAY_US");
        if (delay)
            usleep((useconds_t)atoi(delay));
        if (getenv("SCRATCH_FAILS")) {
            errno = EIO;
            return -1;
        }
    }
    return next(fd, bytes, count, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    return pwrite64(fd, bytes, count, offset);
}
