// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Framing: where in a stream of bytes one request ends and the next begins.
//
// What a client sends is a stream of JSON values: no line ends are needed between
// them, two may come in one packet, and one in many. A value that is an object or
// an array ends where as many brackets have been closed as were opened; so a
// request that is no JSON has an end, too, and what comes behind it is heard.
// Where a byte comes that can stand nowhere (a control character, say, in the
// middle of a string) what came before it is dropped, and all that follows up to
// the next bracket, comma or colon: the end of a broken request is in sight again.
//
// Strings in single quotes are accepted, as QEMU accepts them; the text that is
// handed on has double ones.
//
// Nothing here recurses, and nothing is kept but the bytes of one value, at most
// request_bytes_max. What is nested deeper than depth_max, or longer, is the end:
// no boundary behind it is to be trusted. One thread.

#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace qcow2 {

class Framing {
public:
    static constexpr std::size_t request_bytes_max = 1 << 20;
    static constexpr int depth_max = 64;

    struct Frame {
        enum class Kind {
            text,      // one value, or what looks like one
            stray,     // a byte that can stand nowhere: `text` is it, with what came before
            too_deep,  // nothing is taken any more
            too_long,  // nothing is taken any more
        } kind;
        std::string text;
    };

    // Takes bytes from the front of `bytes`, up to the end of a value, if there is
    // one, and else all.
    std::optional<Frame> take(std::string_view &bytes);

    // Whether a value has begun and not ended.
    bool under_way() const { return !text_.empty() || depth() != 0; }

private:
    enum class State { between, word, string, escape, skipping, ended };

    int depth() const { return braces_ + brackets_; }
    bool at_top() const { return braces_ == 0 && brackets_ == 0; }
    bool take_string(unsigned char c);
    std::optional<Frame> take_bracket(unsigned char c);
    Frame whole();
    Frame stray(unsigned char c);
    Frame end(Frame::Kind kind);

    State state_ = State::between;
    char quote_ = '"';
    int braces_ = 0;
    int brackets_ = 0;
    std::string text_;
};

}  // namespace qcow2
