// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/control/monitor.h"

#include <utility>

#include "core/control/types.h"

namespace qcow2 {

namespace {

constexpr std::string_view negotiation = "qmp_capabilities";

// Of one line; python3-qemu takes no longer one.
constexpr std::size_t answer_bytes_max = 10 << 20;

std::string line(const Json &message) { return to_line(message) + "\r\n"; }

std::string refusal(const std::optional<Json> &id, std::string_view what,
                    std::string_view error_class = "GenericError")
{
    Json message = {{"error", {{"class", error_class}, {"desc", what}}}};
    if (id)
        message["id"] = *id;
    return line(message);
}

Monitor::Turn refuse(const std::optional<Json> &id, std::string_view what,
                     std::string_view error_class = "GenericError")
{
    return {refusal(id, what, error_class), nullptr, {}, {}};
}

Monitor::Turn not_found(const std::optional<Json> &id, std::string_view what)
{
    return refuse(id, what, "CommandNotFound");
}

// What is wrong with a request as such, whatever it asks for.
std::optional<std::string> find_wrong_in_request(const Json &request)
{
    for (const auto &[name, value] : request.items()) {
        if (name == "execute" && !value.is_string())
            return "QMP input member 'execute' must be a string";
        if (name == "arguments" && !value.is_object())
            return "QMP input member 'arguments' must be an object";
        if (name != "execute" && name != "arguments" && name != "id")
            return formatted("QMP input member '{}' is unexpected", name);
    }
    if (!request.contains("execute"))
        return "QMP input lacks member 'execute'";
    return std::nullopt;
}

std::optional<Json> take_member(Json &request, std::string_view name)
{
    const auto found = request.find(name);
    return found == request.end() ? std::nullopt : std::optional<Json>(std::move(*found));
}

}  // namespace

std::string Monitor::greeting()
{
    return line({{"QMP", {{"version", version()}, {"capabilities", Json::array()}}}});
}

std::string Monitor::answer(const std::optional<Json> &id, const Result<Json> &done)
{
    if (!done)
        return refusal(id, done.error().what);
    Json message = {{"return", *done}};
    if (id)
        message["id"] = *id;
    std::string answered = line(message);
    if (answered.size() > answer_bytes_max)
        return refusal(
            id, formatted("the answer has {} bytes, more than clients read", answered.size()));
    return answered;
}

std::string Monitor::event(std::string_view name, const Json &data, std::int64_t seconds,
                           std::int64_t microseconds)
{
    return line({{"timestamp", {{"seconds", seconds}, {"microseconds", microseconds}}},
                 {"event", name},
                 {"data", data}});
}

std::optional<Monitor::Turn> Monitor::next()
{
    std::string_view rest = std::string_view(input_).substr(position_);
    const auto frame = framing_.take(rest);
    position_ = input_.size() - rest.size();
    if (rest.empty()) {
        input_.clear();
        position_ = 0;
    }
    if (!frame)
        return std::nullopt;
    return turn_for(*frame);
}

Monitor::Turn Monitor::turn_for(const Framing::Frame &frame)
{
    switch (frame.kind) {
    case Framing::Frame::Kind::stray:
        return refuse({}, formatted("JSON parse error, stray '{}'", frame.text));
    case Framing::Frame::Kind::too_deep:
        ended_ = true;
        return refuse({}, "JSON nesting depth limit exceeded");
    case Framing::Frame::Kind::too_long:
        ended_ = true;
        return refuse({}, "JSON token size limit exceeded");
    case Framing::Frame::Kind::text: break;
    }
    auto request = parse_json(frame.text);
    if (!request)
        return refuse({}, "JSON parse error");
    if (!request->is_object())
        return refuse({}, "QMP input must be a JSON object");
    return turn_for(*std::move(request));
}

Monitor::Turn Monitor::turn_for(Json request)
{
    const std::optional<Json> id =
        request.contains("id") ? take_member(request, "id") : std::nullopt;
    if (const auto wrong = find_wrong_in_request(request))
        return refuse(id, *wrong);
    const std::string name = request["execute"].get<std::string>();
    Json arguments = take_member(request, "arguments").value_or(Json::object());
    if (!negotiated_ && name != negotiation)
        return not_found(id, "Expecting capabilities negotiation with 'qmp_capabilities'");
    if (negotiated_ && name == negotiation)
        return not_found(id, "Capabilities negotiation is already complete, command ignored");
    const Command *command = find_command(name);
    if (!command)
        return not_found(id, formatted("The command {} has not been found", name));
    if (const auto wrong = find_wrong(arguments, command->arguments))
        return refuse(id, *wrong);
    negotiated_ = true;
    if (command->needs == Command::Needs::nothing)
        return {answer(id, command->run({}, arguments)), nullptr, {}, {}};
    return {{}, command, std::move(arguments), id};
}

}  // namespace qcow2
