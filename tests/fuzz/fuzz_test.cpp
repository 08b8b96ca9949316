// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Each harness with what is in its corpus, and with what comes of changing that here and
// there, by a seed. `make fuzz` goes on from the same corpus with libFuzzer.
//
// A corpus is a folder of texts, or a file with an input in hexadecimal digits on each line;
// what follows "#" says what it is.

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <ostream>
#include <string>
#include <vector>

#include "tests/fuzz/input.h"
#include "tests/support/random.h"

using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(fuzz)

namespace {

namespace fs = std::filesystem;

struct Harness {
    const char *name;
    void (*run)(const std::uint8_t *data, std::size_t size);
    unsigned mutations;  // for each seed

    friend std::ostream &operator<<(std::ostream &out, const Harness &harness)
    {
        return out << harness.name;
    }
};

const Harness harnesses[] = {
    {"control", fuzz_control, 250},
    {"decoders", fuzz_decoders, 5000},
    {"image", fuzz_image, 60},
    {"names", fuzz_names, 500},
};

std::string from_digits(const std::string &digits)
{
    std::string bytes;
    for (std::size_t i = 0; i + 1 < digits.size(); i += 2)
        bytes += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
    return bytes;
}

std::vector<std::string> lines_of_digits(const fs::path &path)
{
    std::vector<std::string> inputs;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);)
        if (const std::string digits = line.substr(0, line.find_first_not_of("0123456789abcdef"));
            !digits.empty())
            inputs.push_back(from_digits(digits));
    return inputs;
}

std::vector<std::string> texts_in(const fs::path &folder)
{
    std::vector<fs::path> paths(fs::directory_iterator(folder), {});
    std::ranges::sort(paths);
    std::vector<std::string> texts;
    for (const fs::path &path : paths) {
        std::ifstream file(path, std::ios::binary);
        texts.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
    return texts;
}

std::vector<std::string> corpus_of(const Harness &harness)
{
    const char *srcdir = std::getenv("srcdir");
    const std::string base = std::string(srcdir ? srcdir : ".") + "/fuzz/" + harness.name;
    const auto inputs = fs::is_directory(base + "-corpus") ? texts_in(base + "-corpus")
                                                           : lines_of_digits(base + ".corpus");
    BOOST_TEST_REQUIRE(!inputs.empty());
    return inputs;
}

// Who dies of it says how it looks.
std::string as_digits(const std::string &bytes)
{
    std::string digits;
    for (const char byte : bytes) {
        char two[3];
        std::snprintf(two, sizeof two, "%02x", static_cast<unsigned char>(byte));
        digits += two;
    }
    return digits;
}

void run(const Harness &harness, const std::string &input)
{
    const DeathNote note(std::string(harness.name) +
                         ": a line for the corpus: " + as_digits(input));
    // In memory of its own, so that a read behind its end is seen.
    const std::vector<std::uint8_t> bytes(input.begin(), input.end());
    harness.run(bytes.data(), bytes.size());
}

// Bytes that matter more often than others.
char interesting(Random &random)
{
    constexpr std::string_view bytes("{}[]\",:'\\ \n\0\x01\x1f\x7f\x80\xc0\xf5\xfe\xff-+.0e9tn",
                                     29);
    return random.below(3) == 0 ? static_cast<char>(random.below(256))
                                : bytes[random.below(bytes.size())];
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

BOOST_DATA_TEST_CASE(corpus, boost::unit_test::data::make(harnesses), harness)
{
    for (const std::string &input : corpus_of(harness))
        run(harness, input);
}

BOOST_DATA_TEST_CASE(mutations, boost::unit_test::data::make(harnesses), harness)
{
    const auto inputs = corpus_of(harness);
    for (const std::uint64_t seed : seeds(4)) {
        Random random(seed);
        for (unsigned i = 0; i < harness.mutations; ++i) {
            std::string input = random.pick(inputs);
            for (std::uint64_t n = 1 + random.below(6); n != 0; --n)
                mutate(input, random.pick(inputs), random);
            run(harness, input);
        }
    }
}

BOOST_AUTO_TEST_SUITE_END()
