// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/control/json.h"

#include <set>
#include <vector>

namespace qcow2 {

std::optional<Json> parse_json(const std::string &text)
{
    // Of each object that is open, the names so far.
    std::vector<std::set<std::string>> names;
    bool twice = false;
    const auto watch = [&](int, Json::parse_event_t event, Json &parsed) {
        switch (event) {
        case Json::parse_event_t::object_start: names.emplace_back(); break;
        case Json::parse_event_t::object_end: names.pop_back(); break;
        case Json::parse_event_t::key:
            twice |= !names.back().insert(parsed.get<std::string>()).second;
            break;
        default: break;
        }
        return true;
    };
    Json value = Json::parse(text, watch, /*allow_exceptions=*/false);
    if (value.is_discarded() || twice)
        return std::nullopt;
    return value;
}

std::string to_line(const Json &value)
{
    return value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
}

}  // namespace qcow2
