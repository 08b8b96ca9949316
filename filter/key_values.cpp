// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/key_values.h"

#include <cstdlib>
#include <memory>
#include <utility>

#include <nbdkit-filter.h>

namespace qcow2 {

Error invalid(std::string what) { return Error(Errc::invalid, std::move(what)); }

Error not_a(std::string_view key, std::string_view value, std::string_view wanted)
{
    return invalid(std::string(key).append("=").append(value).append(": not ").append(wanted));
}

Result<std::string> absolute_path(std::string_view key, const char *value)
{
    const std::unique_ptr<char, decltype(&std::free)> path(nbdkit_absolute_path(value), std::free);
    if (!path)
        return invalid(std::string(key).append("=").append(value).append(
            ": no absolute path can be made of this"));
    return std::string(path.get());
}

Result<std::uint64_t> parse_size(std::string_view size, const Error &what_is_wrong)
{
    if (size.starts_with('+') || size.starts_with('-'))
        return invalid(what_is_wrong.what + ": it has no sign, for it is how much there is to be, "
                                            "not by how much more or less");
    // nbdkit says what it does not like.
    const bool begins_well = !size.empty() && size[0] >= '0' && size[0] <= '9';
    const std::int64_t bytes = begins_well ? nbdkit_parse_size(std::string(size).c_str()) : -1;
    if (bytes < 0)
        return what_is_wrong;
    return static_cast<std::uint64_t>(bytes);
}

}  // namespace qcow2
