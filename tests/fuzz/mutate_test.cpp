// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What is in the corpus, and what comes of changing it here and there, by a seed.

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/fuzz/control.h"
#include "tests/support/random.h"

using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(fuzz)

namespace {

constexpr unsigned mutations = 250;  // for each seed

std::vector<std::string> corpus()
{
    const char *srcdir = std::getenv("srcdir");
    std::vector<std::filesystem::path> paths;
    for (const auto &entry :
         std::filesystem::directory_iterator(std::string(srcdir ? srcdir : ".") + "/fuzz/control-corpus"))
        paths.push_back(entry.path());
    std::ranges::sort(paths);
    std::vector<std::string> texts;
    for (const auto &path : paths) {
        std::ifstream file(path, std::ios::binary);
        texts.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
    return texts;
}

void try_input(const std::string &text)
{
    LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t *>(text.data()), text.size());
}

// Bytes that matter more often than others.
char interesting(Random &random)
{
    constexpr std::string_view bytes("{}[]\",:'\\ \n\0\x01\x1f\x7f\x80\xc0\xf5\xfe\xff-+.0e9tn", 29);
    return random.below(3) == 0 ? static_cast<char>(random.below(256)) : bytes[random.below(bytes.size())];
}

void mutate(std::string &text, const std::string &other, Random &random)
{
    const std::size_t at = random.below(text.size() + 1);
    switch (random.below(6)) {
    case 0: text.insert(at, 1, interesting(random)); break;
    case 1: text.erase(at, 1 + random.below(8)); break;
    case 2:
        if (at < text.size())
            text[at] = interesting(random);
        break;
    case 3: text.insert(at, other, random.below(other.size()), 1 + random.below(60)); break;
    case 4: text.insert(at, text.substr(at, 1 + random.below(60))); break;
    case 5: text.insert(at, std::string(1 + random.below(100), interesting(random))); break;
    }
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_corpus)
{
    const auto texts = corpus();
    BOOST_TEST_REQUIRE(!texts.empty());
    for (const std::string &text : texts)
        try_input(text);
}

BOOST_AUTO_TEST_CASE(mutations_of_the_corpus, *one_thread())
{
    const auto texts = corpus();
    BOOST_TEST_REQUIRE(!texts.empty());
    for (const std::uint64_t seed : seeds(4)) {
        SEEDED(seed);
        Random random(seed);
        for (unsigned i = 0; i < mutations; ++i) {
            std::string text = texts[random.below(texts.size())];
            for (std::uint64_t n = 1 + random.below(6); n != 0; --n)
                mutate(text, texts[random.below(texts.size())], random);
            try_input(text);
        }
    }
}

BOOST_AUTO_TEST_SUITE_END()
