// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/control/framing.h"

#include <utility>

namespace qcow2 {

namespace {

bool is_space(unsigned char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

// Of numbers and of true, false and null.
bool is_of_word(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '+' || c == '.';
}

bool is_structural(unsigned char c)
{
    return std::string_view("{}[]:,").find(static_cast<char>(c)) != std::string_view::npos;
}

// No text in UTF-8 has these, in a string neither.
bool is_never_text(unsigned char c) { return c < 0x20 || c >= 0xfe; }

}  // namespace

Framing::Frame Framing::whole()
{
    state_ = State::between;
    braces_ = brackets_ = 0;
    return {Frame::Kind::text, std::exchange(text_, {})};
}

Framing::Frame Framing::stray(unsigned char c)
{
    Frame frame = whole();
    frame.kind = Frame::Kind::stray;
    frame.text.push_back(static_cast<char>(c));
    state_ = State::skipping;
    return frame;
}

Framing::Frame Framing::end(Frame::Kind kind)
{
    whole();
    text_.shrink_to_fit();
    state_ = State::ended;
    return {kind, {}};
}

// False if the byte can stand in no string.
bool Framing::take_string(unsigned char c)
{
    if (is_never_text(c))
        return false;
    if (state_ == State::escape) {
        // Of single quotes JSON knows nothing.
        if (c == '\'')
            text_.pop_back();
        text_.push_back(static_cast<char>(c));
        state_ = State::string;
    } else if (c == quote_) {
        text_.push_back('"');
        state_ = State::between;
    } else {
        if (c == '\\')
            state_ = State::escape;
        else if (c == '"')
            text_.push_back('\\');
        text_.push_back(static_cast<char>(c));
    }
    return true;
}

// Braces and brackets are counted apart: "[}" has an end.
std::optional<Framing::Frame> Framing::take_bracket(unsigned char c)
{
    braces_ += (c == '{') - (c == '}');
    brackets_ += (c == '[') - (c == ']');
    text_.push_back(static_cast<char>(c));
    if (depth() > depth_max)
        return end(Frame::Kind::too_deep);
    if (braces_ < 0 || brackets_ < 0 || at_top())
        return whole();
    return std::nullopt;
}

std::optional<Framing::Frame> Framing::take(std::string_view &bytes)
{
    while (!bytes.empty() && state_ != State::ended) {
        if (text_.size() >= request_bytes_max)
            return end(Frame::Kind::too_long);
        const unsigned char c = static_cast<unsigned char>(bytes.front());
        if (state_ == State::word && !is_of_word(c)) {
            state_ = State::between;
            if (at_top())
                return whole();  // the byte is looked at again
        }
        if (state_ == State::skipping && is_structural(c))
            state_ = State::between;
        bytes.remove_prefix(1);
        if (state_ == State::skipping)
            continue;
        if (state_ == State::string || state_ == State::escape) {
            if (!take_string(c))
                return stray(c);
            if (state_ == State::between && at_top())
                return whole();
        } else if (c == '{' || c == '}' || c == '[' || c == ']') {
            if (auto frame = take_bracket(c))
                return frame;
        } else if (c == ',' || c == ':') {
            text_.push_back(static_cast<char>(c));
            if (at_top())
                return whole();
        } else if (c == '"' || c == '\'') {
            quote_ = static_cast<char>(c);
            text_.push_back('"');
            state_ = State::string;
        } else if (is_of_word(c)) {
            text_.push_back(static_cast<char>(c));
            state_ = State::word;
        } else if (!is_space(c)) {
            return stray(c);
        } else if (!at_top()) {
            text_.push_back(static_cast<char>(c));  // "1 2" is not "12"
        }
    }
    if (state_ == State::ended)
        bytes = {};
    return std::nullopt;
}

}  // namespace qcow2
