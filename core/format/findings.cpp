// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/findings.h"

#include "core/base/invariant.h"

namespace qcow2 {

namespace {

struct Line {
    std::string_view name;
    Errc code;
    std::string_view sentence;
};

constexpr Line lines[] = {
#define X(name, code, sentence) {#name, Errc::code, sentence},
    QCOW2_FINDINGS(X)
#undef X
};

const Line &line_of(Finding finding)
{
    const auto index = static_cast<std::size_t>(finding);
    INVARIANT(index < std::size(lines));
    return lines[index];
}

}  // namespace

std::string_view name_of(Finding finding) { return line_of(finding).name; }
std::string_view sentence_of(Finding finding) { return line_of(finding).sentence; }
Errc code_of(Finding finding) { return line_of(finding).code; }

Error finding(Finding finding, std::string_view detail)
{
    if (detail.empty())
        return Error(code_of(finding), std::string(sentence_of(finding)));
    return Error(code_of(finding), "{} ({})", sentence_of(finding), detail);
}

}  // namespace qcow2
