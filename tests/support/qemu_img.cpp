// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/support/qemu_img.h"

#include <cstdio>
#include <cstdlib>

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace qcow2::test {

namespace {

Judgement run(const std::string &command)
{
    Judgement judgement;
    FILE *pipe = popen((command + " 2>&1").c_str(), "r");
    if (!pipe)
        return judgement;
    char piece[4096];
    while (const std::size_t n = std::fread(piece, 1, sizeof piece, pipe))
        judgement.output.append(piece, n);
    const int status = pclose(pipe);
    if (WIFEXITED(status))
        judgement.status = WEXITSTATUS(status);
    return judgement;
}

class TemporaryFile {
public:
    TemporaryFile()
    {
        const char *directory = std::getenv("TMPDIR");
        path_ = std::string(directory ? directory : "/tmp") + "/qcow2bitmap-XXXXXX";
        const int fd = mkstemp(path_.data());
        if (fd >= 0)
            close(fd);
    }
    ~TemporaryFile() { unlink(path_.c_str()); }
    TemporaryFile(const TemporaryFile &) = delete;
    TemporaryFile &operator=(const TemporaryFile &) = delete;

    const std::string &path() const { return path_; }

private:
    std::string path_;
};

}  // namespace

bool have_qemu_img()
{
    static const bool have = run("qemu-img --version").status == 0;
    return have;
}

bool dump(const StoreImage &image, const std::string &path)
{
    const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return false;
    bool good = ftruncate(fd, static_cast<off_t>(image.size)) == 0;
    image.bytes.for_each_page([&](std::uint64_t offset, Bytes page) {
        if (offset >= image.size || all_zero(page))
            return;
        const std::size_t inside = std::min<std::uint64_t>(page.size(), image.size - offset);
        good = good && pwrite(fd, page.data(), inside, static_cast<off_t>(offset)) ==
                           static_cast<ssize_t>(inside);
    });
    return close(fd) == 0 && good;
}

Judgement qemu_img_check(const StoreImage &image)
{
    const TemporaryFile file;
    if (!dump(image, file.path()))
        return {-1, "cannot write " + file.path()};
    return run("qemu-img check -f qcow2 '" + file.path() + "'");
}

std::string keep(const StoreImage &image, const std::string &name)
{
    const char *directory = std::getenv("QCOW2_KEEP");
    if (!directory)
        return "QCOW2_KEEP=DIR keeps the image";
    const std::string path = std::string(directory) + "/" + name + ".qcow2";
    return dump(image, path) ? "the image is in " + path : "cannot write " + path;
}

}  // namespace qcow2::test
