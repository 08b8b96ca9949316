// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/scratch_file.h"

#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/base/log.h"
#include "core/base/range.h"

namespace qcow2 {

namespace {

Error with_way_out(Error error)
{
    return Error(error.code, "{}; qcow2-scratch=DIR names another folder", error.what);
}

Result<std::uint64_t> half_of_what_is_free(const std::string &directory)
{
    struct statvfs status;
    if (::statvfs(directory.c_str(), &status) == -1)
        return with_way_out(Error(Errc::io, "{}: how much is free is not known: {}",
                                  shell_word(directory), std::strerror(errno)));
    return std::uint64_t(status.f_bavail) * status.f_frsize / 2;
}

}  // namespace

Result<std::unique_ptr<ScratchFile>> ScratchFile::make(const std::string &directory,
                                                       std::uint64_t size, std::uint64_t bytes_max)
{
    std::vector<std::unique_ptr<LocalFile>> files;
    for (std::uint64_t at = 0; at < size; at += file_bytes_max) {
        auto file = LocalFile::make_temporary(directory);
        if (!file)
            return with_way_out(std::move(file).error());
        // So long from the start: a file system that has no such files says so now.
        const Result<void> made = (*file)->truncate(std::min(size - at, file_bytes_max));
        if (!made)
            return with_way_out(std::move(made).error());
        files.push_back(*std::move(file));
    }
    return std::unique_ptr<ScratchFile>(new ScratchFile(std::move(files), bytes_max));
}

// Calls with the file, the offset in it, and which bytes of the range are there.
template <class Do>
Result<void> ScratchFile::in_each_file(std::uint64_t offset, std::uint64_t length, Do on_part)
{
    for (std::uint64_t done = 0; done < length;) {
        const std::uint64_t number = (offset + done) / file_bytes_max;
        if (number >= files_.size())
            return Error(Errc::no_space, "the disk has grown");  // since this was made
        const std::uint64_t at = (offset + done) % file_bytes_max;
        const std::uint64_t here = std::min(length - done, file_bytes_max - at);
        TRY(on_part(*files_[number], at, Range::of(done, here)));
        done += here;
    }
    return {};
}

Result<void> ScratchFile::read(std::uint64_t offset, MutableBytes bytes)
{
    return in_each_file(offset, bytes.size(), [&](LocalFile &file, std::uint64_t at, Range part) {
        return file.read(at, sub(bytes, part.begin, part.length()));
    });
}

Result<void> ScratchFile::write(std::uint64_t offset, Bytes bytes)
{
    if (used_.fetch_add(bytes.size()) + bytes.size() > bytes_max_) {
        used_ -= bytes.size();
        return Error(Errc::no_space,
                     "its limit for scratch, {} bytes, is reached; qcow2-scratch-max=SIZE sets it",
                     bytes_max_);
    }
    Result<void> written =
        in_each_file(offset, bytes.size(), [&](LocalFile &file, std::uint64_t at, Range part) {
            return file.write(at, sub(bytes, part.begin, part.length()));
        });
    if (!written) {
        used_ -= bytes.size();
        return with_way_out(std::move(written).error());
    }
    return {};
}

// Where it cannot be given back before the end it is given back then.
void ScratchFile::discard(std::uint64_t offset, std::uint64_t length)
{
    const Result<void> punched =
        in_each_file(offset, length, [](LocalFile &file, std::uint64_t at, Range part) {
            return file.punch(at, part.length());
        });
    if (punched)
        used_ -= length;
    else
        log_debug("scratch: {}", punched.error().what);
}

ScratchFolder::ScratchFolder()
{
    const char *folder = std::getenv("TMPDIR");
    directory_ = folder && *folder != '\0' ? folder : "/var/tmp";
}

Result<void> ScratchFolder::set_directory(const std::string &directory)
{
    const auto tried = LocalFile::make_temporary(directory);
    if (!tried)
        return Error(Errc::invalid, tried.error().what);
    directory_ = directory;
    return {};
}

void ScratchFolder::set_image(const std::string &path)
{
    struct stat image, folder;
    shares_room_ = ::stat(path.c_str(), &image) == 0 && S_ISREG(image.st_mode) &&
                   ::stat(directory_.c_str(), &folder) == 0 && image.st_dev == folder.st_dev;
}

Result<std::unique_ptr<Scratch>> ScratchFolder::make(std::uint64_t size,
                                                     std::optional<std::uint64_t> bytes_max)
{
    if (!bytes_max || (bytes_max_ && *bytes_max_ < *bytes_max))
        bytes_max = bytes_max_;
    if (!bytes_max)
        bytes_max = TRY(half_of_what_is_free(directory_));
    return std::unique_ptr<Scratch>(TRY(ScratchFile::make(directory_, size, *bytes_max)));
}

}  // namespace qcow2
