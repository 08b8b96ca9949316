// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// JSON as the control channel has it: by nlohmann-json. Any thread.

#pragma once

#include <optional>
#include <string>

#include <nlohmann/json.hpp>

namespace qcow2 {

using Json = nlohmann::json;

// The one value that the text is; nullopt: it is no JSON, or an object names a
// member twice. The nesting of the text is bounded by who calls.
std::optional<Json> parse_json(const std::string &text);

// The value on one line of ASCII, without its end. Bytes of a string that are no
// UTF-8 become U+FFFD: names come from images, and images from anybody.
std::string to_line(const Json &value);

}  // namespace qcow2
