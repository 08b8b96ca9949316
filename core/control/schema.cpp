// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/control/schema.h"

#include <set>

namespace qcow2 {

namespace {

class Description {
public:
    void add(const Type &type);
    void add(const Command &command);
    void add(const Event &event);
    Json entries = Json::array();

private:
    Json start(const Type &type, std::string_view meta_type);
    void add_builtin(const Type &type, std::string_view json_type);
    void add_object(const Type &type);

    std::set<std::string_view> described_;
};

Json Description::start(const Type &type, std::string_view meta_type)
{
    return {{"name", type.name}, {"meta-type", meta_type}};
}

void Description::add_builtin(const Type &type, std::string_view json_type)
{
    Json entry = start(type, "builtin");
    entry["json-type"] = json_type;
    entries.push_back(std::move(entry));
}

void Description::add_object(const Type &type)
{
    Json entry = start(type, "object");
    Json members = Json::array();
    for (const Member &member : type.members) {
        Json described = {{"name", member.name}, {"type", member.type.name}};
        if (member.optional)
            described["default"] = nullptr;
        members.push_back(std::move(described));
    }
    entry["members"] = std::move(members);
    if (!type.tag.empty()) {
        Json variants = Json::array();
        for (const Branch &branch : type.branches)
            variants.push_back({{"case", branch.tag}, {"type", branch.type.name}});
        entry["tag"] = type.tag;
        entry["variants"] = std::move(variants);
    }
    entries.push_back(std::move(entry));
    for (const Member &member : type.members)
        add(member.type);
    for (const Branch &branch : type.branches)
        add(branch.type);
}

void Description::add(const Type &type)
{
    if (!described_.insert(type.name).second)
        return;
    switch (type.kind) {
    case Type::Kind::string: return add_builtin(type, "string");
    case Type::Kind::integer:
    case Type::Kind::unsigned_32: return add_builtin(type, "int");
    case Type::Kind::boolean: return add_builtin(type, "boolean");
    case Type::Kind::any: return add_builtin(type, "value");
    case Type::Kind::enumeration: {
        Json entry = start(type, "enum");
        Json members = Json::array();
        for (const std::string_view value : type.values)
            members.push_back({{"name", value}});
        entry["members"] = std::move(members);
        entry["values"] = type.values;
        entries.push_back(std::move(entry));
        return;
    }
    case Type::Kind::array: {
        Json entry = start(type, "array");
        entry["element-type"] = type.element->name;
        entries.push_back(std::move(entry));
        return add(*type.element);
    }
    case Type::Kind::alternate: {
        Json entry = start(type, "alternate");
        Json members = Json::array();
        for (const Type *alternative : type.alternatives)
            members.push_back({{"type", alternative->name}});
        entry["members"] = std::move(members);
        entries.push_back(std::move(entry));
        for (const Type *alternative : type.alternatives)
            add(*alternative);
        return;
    }
    case Type::Kind::object: return add_object(type);
    }
}

void Description::add(const Command &command)
{
    entries.push_back({{"name", command.name},
                       {"meta-type", "command"},
                       {"arg-type", command.arguments.name},
                       {"ret-type", command.answer.name}});
    add(command.arguments);
    add(command.answer);
}

void Description::add(const Event &event)
{
    entries.push_back(
        {{"name", event.name}, {"meta-type", "event"}, {"arg-type", event.data.name}});
    add(event.data);
}

}  // namespace

Json describe(std::span<const Command> commands, std::span<const Event> events)
{
    Description description;
    for (const Command &command : commands)
        description.add(command);
    for (const Event &event : events)
        description.add(event);
    return std::move(description.entries);
}

}  // namespace qcow2
