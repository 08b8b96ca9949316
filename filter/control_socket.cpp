// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/control_socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/base/log.h"

namespace qcow2 {

namespace {

// Closed, if nobody takes it.
class Descriptor {
public:
    explicit Descriptor(int number) : number_(number) {}
    ~Descriptor()
    {
        if (number_ != -1)
            ::close(number_);
    }
    Descriptor(const Descriptor &) = delete;
    Descriptor &operator=(const Descriptor &) = delete;
    int number() const { return number_; }
    int release() { return std::exchange(number_, -1); }

private:
    int number_;
};

Error failed(const std::string &path, const std::string &what)
{
    return Error(Errc::invalid, "{}: {}", shell_word(path), what);
}

Error failed_with_errno(const std::string &path, const std::string &what)
{
    return failed(path, formatted("{}: {}", what, std::strerror(errno)));
}

int new_socket() { return ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); }

int bind_to(int descriptor, const sockaddr_un &address)
{
    return ::bind(descriptor, reinterpret_cast<const sockaddr *>(&address), sizeof address);
}

// What has the name already goes, if it is a socket on which nobody answers.
Result<void> make_place(const std::string &path, const sockaddr_un &address)
{
    struct stat there;
    if (::lstat(path.c_str(), &there) == -1)
        return errno == ENOENT ? Result<void>() : failed_with_errno(path, "cannot be looked at");
    if (!S_ISSOCK(there.st_mode))
        return failed(path, "is there already, and is no socket; give another path");
    const Descriptor probe(new_socket());
    if (probe.number() == -1)
        return failed_with_errno(path, "no socket can be made");
    if (::connect(probe.number(), reinterpret_cast<const sockaddr *>(&address), sizeof address) ==
            0 ||
        errno == EAGAIN)
        return failed(path, "another server answers there; stop it, or give another path");
    if (errno != ECONNREFUSED)
        return failed_with_errno(path, "it cannot be found out whether a server answers there");
    if (::unlink(path.c_str()) == -1 && errno != ENOENT)
        return failed_with_errno(path, "a server that has ended left it, and it cannot be removed");
    return {};
}

}  // namespace

Result<std::unique_ptr<ControlSocket>> ControlSocket::bind(const std::string &path)
{
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof address.sun_path)
        return failed(
            path, formatted("has {} bytes, and the path of a socket at most {}; give a shorter one",
                            path.size(), sizeof address.sun_path - 1));
    std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
    TRY(make_place(path, address));
    Descriptor listening(new_socket());
    if (listening.number() == -1)
        return failed_with_errno(path, "no socket can be made");
    // The mode that the name will have: nobody can connect in between.
    if (::fchmod(listening.number(), 0600) == -1 || bind_to(listening.number(), address) == -1)
        return failed_with_errno(path, "no socket can be made there");
    std::unique_ptr<ControlSocket> socket(new ControlSocket(path, listening.release()));
    struct stat made;
    if (::lstat(path.c_str(), &made) == -1)
        return failed_with_errno(path, "cannot be looked at");
    socket->device_ = made.st_dev;
    socket->inode_ = made.st_ino;
    if ((made.st_mode & 0777) != 0600 && ::chmod(path.c_str(), 0600) == -1)
        return failed_with_errno(path, "its mode cannot be made 0600");
    if (::listen(socket->descriptor_, SOMAXCONN) == -1)
        return failed_with_errno(path, "nobody can be heard there");
    return socket;
}

ControlSocket::~ControlSocket()
{
    struct stat there;
    if (::lstat(path_.c_str(), &there) == 0 && there.st_dev == device_ && there.st_ino == inode_)
        ::unlink(path_.c_str());
    ::close(descriptor_);
}

}  // namespace qcow2
