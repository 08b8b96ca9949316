// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/local_file.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "core/base/log.h"
#include "filter/server_user.h"

namespace qcow2 {

namespace {

Errc to_errc(int cause)
{
    switch (cause) {
    case ENOENT:
    case ENOTDIR: return Errc::not_found;
    case ENOSPC:
    case EDQUOT:
    case EFBIG: return Errc::no_space;
    case EACCES:
    case EPERM:
    case EROFS: return Errc::read_only;
    default: return Errc::io;
    }
}

// open: returns a descriptor, or -1 and sets errno. A signal may come while a file system that
// is elsewhere is asked.
template <class Open>
int patiently(Open open)
{
    for (;;) {
        const int descriptor = open();
        if (descriptor != -1 || errno != EINTR)
            return descriptor;
    }
}

// The mode of the open descriptor if it is one on a file at all.
std::optional<int> access_mode(int descriptor)
{
    const int flags = fcntl(descriptor, F_GETFL);
    if (flags == -1 || (flags & O_PATH))
        return std::nullopt;
    return flags & O_ACCMODE;
}

}  // namespace

LocalFile::LocalFile(std::string path, int descriptor, int why_not_writable,
                     const struct stat &status)
    : path_(std::move(path)),
      descriptor_(descriptor),
      why_not_writable_(why_not_writable),
      status_(status)
{
}

LocalFile::~LocalFile() { ::close(descriptor_); }

Error LocalFile::failed(const std::string &what, int cause) const
{
    return Error(to_errc(cause), "{}: {}: {}", shell_word(path_), what, std::strerror(cause));
}

Result<std::unique_ptr<LocalFile>> LocalFile::open(const std::string &path)
{
    // Looked at before it is opened: opening a pipe would wait, a tape wind.
    struct stat status;
    if (::stat(path.c_str(), &status) == -1)
        return Error(to_errc(errno), "{}: {}", shell_word(path), words_for_errno(errno));
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode))
        return Error(Errc::invalid, "{}: neither a regular file nor a block device",
                     shell_word(path));

    constexpr int flags = O_CLOEXEC | O_NOCTTY;
    int why_not_writable = 0;
    int descriptor = patiently([&] { return ::open(path.c_str(), O_RDWR | flags); });
    if (descriptor == -1) {
        why_not_writable = errno;
        descriptor = patiently([&] { return ::open(path.c_str(), O_RDONLY | flags); });
    }
    if (descriptor == -1)
        return Error(to_errc(errno), "{}: {}", shell_word(path), words_for_errno(errno));
    return adopt(path, descriptor, why_not_writable);
}

Result<std::unique_ptr<LocalFile>> LocalFile::adopt(const std::string &path, int descriptor,
                                                    int why_not_writable)
{
    struct stat status;
    if (::fstat(descriptor, &status) == -1) {
        const int cause = errno;
        ::close(descriptor);
        return Error(to_errc(cause), "{}: {}", shell_word(path), std::strerror(cause));
    }
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
        ::close(descriptor);
        return Error(Errc::invalid, "{}: neither a regular file nor a block device",
                     shell_word(path));
    }
    return std::unique_ptr<LocalFile>(new LocalFile(path, descriptor, why_not_writable, status));
}

Result<std::unique_ptr<LocalFile>> LocalFile::open_beneath(int directory, const std::string &rest,
                                                           const std::string &path, bool writable)
{
    // Non-blocking: a pipe would wait for somebody at its other end.
    struct open_how how {};
    how.flags = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    // glibc 2.36 has no function for it.
    const auto open = [&] {
        return static_cast<int>(::syscall(SYS_openat2, directory, rest.c_str(), &how, sizeof how));
    };
    int why_not_writable = writable ? 0 : EROFS;
    int descriptor = patiently(open);
    if (descriptor == -1 && writable && (errno == EACCES || errno == EPERM || errno == EROFS)) {
        why_not_writable = errno;
        how.flags = (how.flags & ~static_cast<decltype(how.flags)>(O_ACCMODE)) | O_RDONLY;
        descriptor = patiently(open);
    }
    if (descriptor == -1)
        return Error(to_errc(errno), "{}: {}", shell_word(path), words_for_errno(errno));
    return adopt(path, descriptor, why_not_writable);
}

Result<std::unique_ptr<LocalFile>> LocalFile::make_temporary(const std::string &directory)
{
    int descriptor = patiently(
        [&] { return ::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600); });
    // Not every file system makes files without a name (nor does an old kernel): then it has one
    // for a moment.
    if (descriptor == -1 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
        std::string path = directory + "/nbdkit-qcow2bitmap.XXXXXX";
        descriptor = ::mkostemp(path.data(), O_CLOEXEC);
        if (descriptor != -1)
            ::unlink(path.c_str());
    }
    if (descriptor == -1)
        return Error(to_errc(errno), "{}: no file can be made there: {}", shell_word(directory),
                     words_for_errno(errno));
    return adopt(directory, descriptor, 0);
}

std::string LocalFile::identity_of(const struct stat &status)
{
    if (S_ISBLK(status.st_mode))
        return formatted("device {}", status.st_rdev);
    return formatted("{}:{}", status.st_dev, status.st_ino);
}

Result<std::uint64_t> LocalFile::length() const
{
    // A block device has no st_size.
    struct stat status;
    off_t length = -1;
    if (!regular())
        length = ::lseek(descriptor_, 0, SEEK_END);
    else if (::fstat(descriptor_, &status) == 0)
        length = status.st_size;
    if (length == -1)
        return failed("the length is not known", errno);
    return static_cast<std::uint64_t>(length);
}

bool LocalFile::is_same(const struct stat &other) const
{
    // Several nodes may lead to one device.
    if (S_ISBLK(status_.st_mode))
        return S_ISBLK(other.st_mode) && status_.st_rdev == other.st_rdev;
    return status_.st_dev == other.st_dev && status_.st_ino == other.st_ino;
}

bool LocalFile::still_named() const
{
    struct stat status;
    return ::stat(path_.c_str(), &status) == 0 && is_same(status);
}

void LocalFile::count_holder(int descriptor, Holders &holders) const
{
    struct stat status;
    if (descriptor == descriptor_)
        return;
    if (::fstat(descriptor, &status) == -1) {
        holders.all_seen &= errno == EBADF;  // else a file system that is away, for example
        return;
    }
    if (!is_same(status))
        return;
    if (const std::optional<int> mode = access_mode(descriptor))
        ++(*mode == O_RDONLY ? holders.reading : holders.writing);
}

// As /proc lists them. False, and errno says why, if the list cannot be had, or breaks off.
bool LocalFile::count_listed(Holders &holders) const
{
    DIR *directory = ::opendir("/proc/self/fd");
    if (directory == nullptr)
        return false;
    errno = 0;
    while (const dirent *entry = ::readdir(directory)) {
        char *rest;
        const long descriptor = std::strtol(entry->d_name, &rest, 10);
        if (*rest == '\0')
            count_holder(static_cast<int>(descriptor), holders);
        errno = 0;
    }
    const int cause = errno;
    ::closedir(directory);
    errno = cause;
    return cause == 0;
}

// The list takes a descriptor, which may be the very thing that is missing: then the
// numbers that a descriptor can have are tried, one after the other, if these are not
// millions. (Not at once: 20,000 of them take 20 ms.)
LocalFile::Holders LocalFile::holders() const
{
    Holders listed;
    if (count_listed(listed))
        return listed;
    log_debug("/proc/self/fd: {}", std::strerror(errno));
    constexpr rlim_t few = 1 << 16;
    rlimit limit;
    const rlim_t end = ::getrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : RLIM_INFINITY;
    Holders holders;
    holders.all_seen = end <= few;
    for (int descriptor = 0; descriptor < static_cast<int>(std::min(end, few)); ++descriptor)
        count_holder(descriptor, holders);
    return holders;
}

LocalFile::Held LocalFile::held_by_layer() const
{
    const Holders found = holders();
    if (found.writing != 0)
        return Held::for_writing;
    if (!found.all_seen)
        return Held::unknown;
    return found.reading != 0 ? Held::for_reading : Held::no;
}

Result<void> LocalFile::read(std::uint64_t offset, MutableBytes bytes) const
{
    while (!bytes.empty()) {
        const ssize_t n =
            ::pread(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
        if (n == -1 && errno == EINTR)
            continue;
        if (n == -1)
            return failed(formatted("reading at {:#x}", offset), errno);
        if (n == 0)
            return Error(Errc::io, "{}: the file ends at {:#x}", shell_word(path_), offset);
        offset += static_cast<std::uint64_t>(n);
        bytes = bytes.subspan(static_cast<std::size_t>(n));
    }
    return {};
}

Result<void> LocalFile::write(std::uint64_t offset, Bytes bytes)
{
    while (!bytes.empty()) {
        const ssize_t n =
            ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
        if (n == -1 && errno == EINTR)
            continue;
        if (n == -1)
            return failed(formatted("writing at {:#x}", offset), errno);
        offset += static_cast<std::uint64_t>(n);
        bytes = bytes.subspan(static_cast<std::size_t>(n));
    }
    return {};
}

Result<void> LocalFile::flush()
{
    if (::fdatasync(descriptor_) == -1)
        return failed("flushing", errno);
    return {};
}

Result<void> LocalFile::truncate(std::uint64_t length)
{
    // The kernel would not only refuse, but also send a deadly signal.
    rlimit limit;
    if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        length > limit.rlim_cur && length > TRY(this->length()))
        return failed("the limit of this process for files (ulimit -f)", EFBIG);
    if (length > static_cast<std::uint64_t>(INT64_MAX))
        return failed(formatted("a length of {:#x}", length), EFBIG);
    while (::ftruncate(descriptor_, static_cast<off_t>(length)) == -1) {
        if (errno != EINTR)
            return failed(formatted("setting the length to {:#x}", length), errno);
    }
    return {};
}

Result<void> LocalFile::allocate(int mode, const char *what, std::uint64_t offset,
                                 std::uint64_t length)
{
    if (length == 0)
        return {};
    while (::fallocate(descriptor_, mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                       static_cast<off_t>(length)) == -1) {
        if (errno == EOPNOTSUPP || errno == ENODEV || errno == EINVAL)
            return Error(Errc::unsupported, "{}: {}: not possible here", shell_word(path_), what);
        if (errno != EINTR)
            return failed(formatted("{} at {:#x}", what, offset), errno);
    }
    return {};
}

Result<void> LocalFile::punch(std::uint64_t offset, std::uint64_t length)
{
    return allocate(FALLOC_FL_PUNCH_HOLE, "making a hole", offset, length);
}

Result<void> LocalFile::zero(std::uint64_t offset, std::uint64_t length)
{
    return allocate(FALLOC_FL_ZERO_RANGE, "zeroing", offset, length);
}

ByteStore::Stretch LocalFile::stretch(std::uint64_t offset, std::uint64_t length_max) const
{
    const ByteStore::Stretch unknown{length_max, false};
    if (!regular())
        return unknown;
    const off_t begin = static_cast<off_t>(offset);
    const off_t data = ::lseek(descriptor_, begin, SEEK_DATA);
    if (data == -1)  // ENXIO: none up to the end of the file
        return {length_max, errno == ENXIO};
    if (data > begin)
        return {std::min(length_max, static_cast<std::uint64_t>(data - begin)), true};
    const off_t hole = ::lseek(descriptor_, begin, SEEK_HOLE);
    if (hole <= begin)  // an error, or somebody has just made one
        return unknown;
    return {std::min(length_max, static_cast<std::uint64_t>(hole - begin)), false};
}

}  // namespace qcow2
