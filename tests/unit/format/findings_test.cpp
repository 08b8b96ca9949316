// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/findings.h"

#include <boost/test/unit_test.hpp>

#include <set>

using namespace qcow2;

BOOST_AUTO_TEST_SUITE(findings)

BOOST_AUTO_TEST_CASE(each_has_a_name_and_a_sentence_of_its_own)
{
    std::set<std::string_view> names, sentences;
    std::size_t count = 0;
#define X(name, code, sentence)                         \
    BOOST_TEST(name_of(Finding::name) == #name);        \
    BOOST_TEST((code_of(Finding::name) == Errc::code)); \
    BOOST_TEST(sentence_of(Finding::name) == sentence); \
    names.insert(name_of(Finding::name));               \
    sentences.insert(sentence_of(Finding::name));       \
    ++count;
    QCOW2_FINDINGS(X)
#undef X
    BOOST_TEST(count == finding_kinds);
    BOOST_TEST(names.size() == count);
    BOOST_TEST(sentences.size() == count);
}

BOOST_AUTO_TEST_CASE(as_an_error_with_and_without_detail)
{
    const Error plain = finding(Finding::l1_table_unaligned);
    BOOST_TEST((plain.code == Errc::corrupt));
    BOOST_TEST(plain.what == "the L1 table is not cluster aligned");
    BOOST_TEST(finding(Finding::l1_table_unaligned, "it is at 0x30001").what ==
               "the L1 table is not cluster aligned (it is at 0x30001)");
}

BOOST_AUTO_TEST_SUITE_END()
