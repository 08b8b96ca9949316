// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// For LD_PRELOAD: before bytes of a file are written, what was there is copied to the same
// place of the file COPY_TO, once more each time. It is the least that a server can do that
// keeps what a disk was: no table, no lock, no layer.

#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

static ssize_t (*next)(int, const void *, size_t, off64_t);
static int copy = -1;

__attribute__((constructor)) static void begin(void)
{
    next = (ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    copy = open(getenv("COPY_TO"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (copy < 0)
        abort();
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset)
{
    static __thread char *old;
    static __thread size_t size;
    if (size < count)
        old = realloc(old, size = count);
    if (!old || pread64(fd, old, count, offset) != (ssize_t)count || next(copy, old, count, offset) != (ssize_t)count)
        abort();
    return next(fd, bytes, count, offset);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    return pwrite64(fd, bytes, count, offset);
}
