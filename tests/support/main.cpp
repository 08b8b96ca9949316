// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The main function of every Boost.Test program. It stands in libsupport, so
// that the linker takes it for programs that have none of their own.
//
// With QCOW2_PART=2of3 in the environment the program runs the second of each three of its
// cases: what takes long is run on several cores. With QCOW2_RARE=FILE it writes there which of
// the branches that are marked as rare (core/base/rare.h) it has been in: a line for each,
// "been" or "never" and what it is.

#define BOOST_TEST_NO_MAIN
#include <boost/test/tree/traverse.hpp>
#include <boost/test/tree/visitor.hpp>
#include <boost/test/unit_test.hpp>

#include <cstdio>
#include <cstdlib>

#include "core/base/rare.h"

// The linker's names of the list's two ends; of an empty list, too.
extern "C" {
[[gnu::weak]] extern const qcow2::RareBranch __start_qcow2_rare[];
[[gnu::weak]] extern const qcow2::RareBranch __stop_qcow2_rare[];
}

namespace {

namespace ut = boost::unit_test;

class OfOtherParts : public ut::test_tree_visitor {
public:
    OfOtherParts(unsigned part, unsigned parts) : part_(part), parts_(parts) {}

    void visit(const ut::test_case &seen) override
    {
        if (count_++ % parts_ + 1 != part_)
            ut::framework::get<ut::test_case>(seen.p_id).p_default_status.value =
                ut::test_unit::RS_DISABLED;
    }

private:
    const unsigned part_, parts_;
    unsigned count_ = 0;
};

bool prepare()
{
    ut::framework::master_test_suite().p_name.value = "qcow2bitmap";
    const char *wanted = std::getenv("QCOW2_PART");
    unsigned part = 0, parts = 0;
    if (!wanted)
        return true;
    if (std::sscanf(wanted, "%uof%u", &part, &parts) != 2 || part < 1 || part > parts)
        return false;
    OfOtherParts others(part, parts);
    ut::traverse_test_tree(ut::framework::master_test_suite(), others, true);
    return true;
}

void tell_rare_branches(const char *path)
{
    std::FILE *const file = std::fopen(path, "w");
    if (!file)
        return;
    for (const qcow2::RareBranch *branch = __start_qcow2_rare; branch != __stop_qcow2_rare;
         ++branch)
        std::fprintf(file, "%s\t%s\n", *branch->been ? "been" : "never", branch->what);
    std::fclose(file);
}

}  // namespace

int main(int argc, char **argv)
{
    const int status = ut::unit_test_main(prepare, argc, argv);
    if (const char *path = std::getenv("QCOW2_RARE"))
        tell_rare_branches(path);
    return status;
}
