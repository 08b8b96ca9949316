// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// check_image FILE: what core/check thinks of an image. Prints the findings
// and a line with the totals; exits as qemu-img check does: 0 sound, 2
// corrupt, 3 leaks only, 1 if it cannot be checked.

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <string>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/read_only_store.h"
#include "core/check/check.h"

namespace {

using namespace qcow2;

// A file that is only read.
class ReadOnlyFile final : public ReadOnlyStore {
public:
    explicit ReadOnlyFile(const char *path)
        : ReadOnlyStore("the file is only read"), fd_(open(path, O_RDONLY | O_CLOEXEC))
    {
        struct stat status;
        if (fd_ >= 0 && fstat(fd_, &status) == 0)
            size_ = static_cast<std::uint64_t>(status.st_size);
    }
    ~ReadOnlyFile() override
    {
        if (fd_ >= 0)
            close(fd_);
    }

    bool is_open() const { return fd_ >= 0; }
    std::uint64_t size() const override { return size_; }

    Result<void> read(std::uint64_t offset, MutableBytes bytes) override
    {
        while (!bytes.empty()) {
            const ssize_t n = pread(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
            if (n < 0)
                return Error(Errc::io, std::strerror(errno));
            if (n == 0) {
                std::memset(bytes.data(), 0, bytes.size());
                return {};
            }
            bytes = bytes.subspan(static_cast<std::size_t>(n));
            offset += static_cast<std::uint64_t>(n);
        }
        return {};
    }

    Result<void> cut(std::uint64_t) override { return {}; }

private:
    int fd_;
    std::uint64_t size_ = 0;
};

}  // namespace

int main(int argc, char **argv)
{
    if (argc != 2) {
        std::fprintf(stderr, "usage: check_image FILE\n");
        return 1;
    }
    ReadOnlyFile file(argv[1]);
    if (!file.is_open()) {
        std::fprintf(stderr, "check_image: %s: %s\n", argv[1], std::strerror(errno));
        return 1;
    }
    const auto report = check(file);
    if (!report) {
        std::fprintf(stderr, "check_image: %s: %s\n", argv[1], report.error().what.c_str());
        return 1;
    }
    std::fputs(report->text().c_str(), stdout);
    return report->sound() ? 0 : report->leaks_at_worst() ? 3 : 2;
}
