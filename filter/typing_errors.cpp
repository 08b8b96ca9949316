// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/typing_errors.h"

#include <algorithm>
#include <string>
#include <vector>

namespace qcow2 {

std::size_t typing_errors(std::string_view typed, std::string_view key)
{
    if (key.ends_with(std::string("-").append(typed)))
        return 0;
    // errors[i][k]: from the first i letters of the one to the first k of the other.
    const std::vector<std::size_t> row(key.size() + 1);
    std::vector errors(typed.size() + 1, row);
    for (std::size_t i = 0; i <= typed.size(); ++i) {
        for (std::size_t k = 0; k <= key.size(); ++k) {
            if (i == 0 || k == 0) {
                errors[i][k] = i + k;
                continue;
            }
            const bool same = typed[i - 1] == key[k - 1];
            errors[i][k] = std::min(
                {errors[i - 1][k] + 1, errors[i][k - 1] + 1, errors[i - 1][k - 1] + !same});
            if (i > 1 && k > 1 && typed[i - 1] == key[k - 2] && typed[i - 2] == key[k - 1])
                errors[i][k] = std::min(errors[i][k], errors[i - 2][k - 2] + 1);
        }
    }
    return errors[typed.size()][key.size()];
}

}  // namespace qcow2
