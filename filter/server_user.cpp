// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/server_user.h"

#include <grp.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/base/log.h"
#include "filter/command_line.h"

namespace qcow2 {

namespace {

// Who that is, in a Scope; else empty.
std::string acting_as;

std::optional<std::uint32_t> number_in(const std::string &text)
{
    std::uint32_t number = 0;
    const char *end = text.data() + text.size();
    const auto [at, wrong] = std::from_chars(text.data(), end, number);
    return wrong == std::errc() && at == end ? std::optional(number) : std::nullopt;
}

// A name, or a number. (Nothing else runs yet that could ask for another one meanwhile.)
std::optional<uid_t> user_of(const std::string &text)
{
    if (const passwd *entry = ::getpwnam(text.c_str()))
        return entry->pw_uid;
    return number_in(text);
}

std::optional<gid_t> group_of(const std::string &text)
{
    if (const ::group *entry = ::getgrnam(text.c_str()))
        return entry->gr_gid;
    return number_in(text);
}

}  // namespace

ServerUser ServerUser::of(std::span<const std::string> arguments)
{
    ServerUser user;
    if (::geteuid() != 0)
        return user;
    if (const auto name = asked_for_user(arguments); name && (user.user_ = user_of(*name)))
        user.words_ = formatted("user {} (-u)", shell_word(*name));
    if (const auto name = asked_for_group(arguments); name && (user.group_ = group_of(*name)))
        user.words_ +=
            formatted("{}group {} (-g)", user.words_.empty() ? "" : " and ", shell_word(*name));
    return user;
}

ServerUser::Scope::Scope(const ServerUser &user)
    : changed_(user.changes()), user_(::geteuid()), group_(::getegid())
{
    if (!changed_)
        return;
    groups_.resize(static_cast<std::size_t>(std::max(0, ::getgroups(0, nullptr))));
    groups_.resize(static_cast<std::size_t>(
        std::max(0, ::getgroups(static_cast<int>(groups_.size()), groups_.data()))));
    const bool done =
        (!user.group_ || (::setgroups(1, &*user.group_) == 0 && ::setegid(*user.group_) == 0)) &&
        (!user.user_ || ::seteuid(*user.user_) == 0);
    if (done)
        acting_as = user.words_;
    else  // nbdkit cannot do it either, and says so
        restore();
}

ServerUser::Scope::~Scope()
{
    if (changed_)
        restore();
}

// The user first, for only that one may change the groups. If it fails the process ends:
// nothing may go on as another user.
void ServerUser::Scope::restore()
{
    acting_as.clear();
    if (::seteuid(user_) != 0 || ::setegid(group_) != 0 ||
        ::setgroups(groups_.size(), groups_.data()) != 0)
        std::abort();
}

std::string words_for_errno(int cause)
{
    std::string words = std::strerror(cause);
    if ((cause == EACCES || cause == EPERM) && !acting_as.empty())
        words += formatted(", for {}", acting_as);
    return words;
}

}  // namespace qcow2
