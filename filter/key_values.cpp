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
    return invalid(formatted("{}={}: not {}", key, value, wanted));
}

Result<std::string> absolute_path(std::string_view key, const char *value)
{
    const std::unique_ptr<char, decltype(&std::free)> path(nbdkit_absolute_path(value), std::free);
    if (!path)
        return invalid(formatted("{}={}: no absolute path can be made of this", key, value));
    return std::string(path.get());
}

Result<std::uint64_t> parse_size(std::string_view size, const Error &what_is_wrong)
{
    if (size.starts_with('+') || size.starts_with('-'))
        return invalid(
            formatted("{}: it has no sign, for it is how much there is to be, not by how much "
                      "more or less",
                      what_is_wrong.what));
    // nbdkit says what it does not like.
    const bool begins_well = !size.empty() && size[0] >= '0' && size[0] <= '9';
    const std::int64_t bytes = begins_well ? nbdkit_parse_size(std::string(size).c_str()) : -1;
    if (bytes < 0)
        return what_is_wrong;
    return static_cast<std::uint64_t>(bytes);
}

}  // namespace qcow2
