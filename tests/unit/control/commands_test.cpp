// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/control/command.h"

#include <boost/test/unit_test.hpp>

#include <map>
#include <set>

#include "core/control/schema.h"
#include "tests/support/conversation.h"
#include "tests/support/must.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(commands)

namespace {

// A command with arguments of its type; its answer is of its type.
Result<Json> run(Host &host, std::string_view name, const Json &arguments = Json::object())
{
    const Command *command = find_command(name);
    BOOST_TEST_REQUIRE(command, name);
    BOOST_TEST_REQUIRE(!find_wrong(arguments, command->arguments).has_value(), arguments);
    Result<Json> done = run_command(*command, host, arguments);
    if (done) {
        const auto wrong = find_wrong(*done, command->answer);
        BOOST_TEST(!wrong.has_value(), name << " answers " << *done << ": " << wrong.value_or(""));
    }
    return done;
}

Json bitmap(const std::string &name) { return {{"node", "disk"}, {"name", name}}; }
Json new_bitmap(const std::string &name)
{
    return {{"node", "disk"}, {"name", name}, {"persistent", true}};
}
Json action(const char *type, Json data) { return {{"type", type}, {"data", std::move(data)}}; }
Json actions(Json list) { return {{"actions", std::move(list)}}; }

std::set<std::string> names(Host &host)
{
    std::set<std::string> found;
    const Json nodes = must(run(host, "query-named-block-nodes"));
    if (nodes[0].contains("dirty-bitmaps"))
        for (const Json &state : nodes[0]["dirty-bitmaps"])
            found.insert(state["name"]);
    return found;
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_schema_describes_each_type_that_it_names_once)
{
    const Json schema = describe(all_commands(), all_events());
    std::map<std::string, Json> by_name;
    for (const Json &entry : schema)
        BOOST_TEST(by_name.emplace(entry.at("name"), entry).second, entry);
    std::set<std::string> named;
    const auto name_type = [&](const Json &type) {
        BOOST_TEST(by_name.contains(type), type << " is not described");
        named.insert(type);
    };
    const std::set<std::string> metas = {"builtin",   "enum",    "array", "object",
                                         "alternate", "command", "event"};
    for (const auto &[name, entry] : by_name) {
        BOOST_TEST(metas.contains(entry.at("meta-type")), entry);
        for (const char *key : {"arg-type", "ret-type", "element-type"})
            if (entry.contains(key))
                name_type(entry[key]);
        const bool is_enum = entry["meta-type"] == "enum";
        for (const char *key : {"members", "variants"})
            if (entry.contains(key) && !is_enum)
                for (const Json &member : entry[key])
                    name_type(member.at("type"));
        // The tag of a union is one of its members, and selects by its values.
        if (entry.contains("tag")) {
            const Json &members = entry["members"];
            const Json &tag = *std::find_if(
                members.begin(), members.end(),
                [&name_of = entry["tag"]](const Json &m) { return m["name"] == name_of; });
            std::set<std::string> cases, values = by_name.at(tag["type"])["values"];
            for (const Json &variant : entry["variants"])
                cases.insert(variant["case"]);
            BOOST_TEST(cases == values);
        }
    }
    for (const auto &[name, entry] : by_name)
        if (entry["meta-type"] != "command" && entry["meta-type"] != "event")
            BOOST_TEST(named.contains(name), name << " is described, and nobody names it");
}

BOOST_AUTO_TEST_CASE(the_tables_are_in_order_and_tell_of_themselves)
{
    MemoryHost host;
    Json names = Json::array();
    std::string_view before;
    for (const Command &command : all_commands()) {
        BOOST_TEST((before < command.name), command.name);
        BOOST_TEST((command.arguments.kind == Type::Kind::object), command.name);
        before = command.name;
        names.push_back({{"name", command.name}});
    }
    BOOST_TEST(must(run(host, "query-commands")) == names);
    BOOST_TEST(!find_command(""));
}

BOOST_AUTO_TEST_CASE(queries_answer_what_the_schema_says)
{
    for (const bool read_only : {false, true}) {
        MemoryHost host(read_only);
        if (!read_only) {
            must(run(host, "block-dirty-bitmap-add", new_bitmap("a")));
            must(run(host, "blockdev-snapshot-internal-sync", {{"device", "disk"}, {"name", "s"}}));
        }
        for (const Command &command : all_commands())
            if (command.name.starts_with("query-"))
                must(run(host, command.name));
        const Json status = must(run(host, "query-status"));
        BOOST_TEST(status["running"] == true);
        BOOST_TEST(status["disk"]["size"] == MemoryHost::disk_size);
        BOOST_TEST(status["disk"]["read-only"] == read_only);
        BOOST_TEST(status["disk"].contains("why-read-only") == read_only);
        BOOST_TEST(host.entered == host.left);
    }
}

BOOST_AUTO_TEST_CASE(a_disk_that_is_only_read_is_not_changed)
{
    MemoryHost host(true);
    for (const Command &command : all_commands()) {
        if (command.needs != Command::Needs::disk_to_change)
            continue;
        const Result<Json> done = run_command(command, host, new_bitmap("a"));
        BOOST_TEST(!done, command.name);
        BOOST_TEST((done.error().code == Errc::read_only), command.name);
    }
    BOOST_TEST(host.entered == host.left);
    must(run(host, "quit"));
}

BOOST_AUTO_TEST_CASE(bitmaps_change)
{
    MemoryHost host;
    must(run(host, "block-dirty-bitmap-add", new_bitmap("a")));
    must(run(host, "block-dirty-bitmap-add",
             {{"node", "disk"},
              {"name", "b"},
              {"persistent", true},
              {"disabled", true},
              {"granularity", 512}}));
    must(host.disk().write(GuestOffset(0), Bytes(Buffer(100)), false));
    const auto state = [&](const char *name) {
        const auto states = must(host.disk().bitmap_states());
        return *std::find_if(states.begin(), states.end(),
                             [&](const BitmapState &s) { return s.name == name; });
    };
    BOOST_TEST(state("a").dirty_bytes == 65536u);
    BOOST_TEST(state("b").granularity == 512u);
    BOOST_TEST(!state("b").enabled);
    must(run(host, "block-dirty-bitmap-merge",
             {{"node", "disk"}, {"target", "b"}, {"bitmaps", {"a"}}}));
    BOOST_TEST(state("b").dirty_bytes == 65536u);
    must(run(host, "block-dirty-bitmap-merge",
             {{"node", "disk"}, {"target", "b"}, {"bitmaps", Json::array()}}));
    must(run(host, "block-dirty-bitmap-clear", bitmap("a")));
    BOOST_TEST(state("a").dirty_bytes == 0u);
    must(run(host, "block-dirty-bitmap-disable", bitmap("a")));
    must(run(host, "block-dirty-bitmap-enable", bitmap("b")));
    BOOST_TEST(!state("a").enabled);
    BOOST_TEST(state("b").enabled);
    must(run(host, "block-dirty-bitmap-remove", bitmap("a")));
    BOOST_TEST(names(host) == std::set<std::string>{"b"});
    // One that vanishes with the server is not what was asked for.
    BOOST_TEST(!run(host, "block-dirty-bitmap-add", bitmap("transient")));
}

BOOST_AUTO_TEST_CASE(a_transaction_is_done_as_a_whole_or_not_at_all)
{
    MemoryHost host;
    must(run(host, "block-dirty-bitmap-add", new_bitmap("a")));
    const Json snapshot =
        action("blockdev-snapshot-internal-sync", {{"device", "disk"}, {"name", "s"}});
    const Json lasts[] = {
        action("abort", Json::object()), action("block-dirty-bitmap-clear", bitmap("nope")),
        action("block-dirty-bitmap-add", new_bitmap("a")),
        action("block-dirty-bitmap-add", {{"node", "nope"}, {"name", "c"}}),
        action("blockdev-snapshot-internal-sync", {{"device", "disk"}, {"name", "s"}})};
    for (const Json &last : lasts) {
        BOOST_TEST(!run(host, "transaction",
                        actions({action("block-dirty-bitmap-add", new_bitmap("b")), snapshot,
                                 action("block-dirty-bitmap-remove", bitmap("a")), last})));
        BOOST_TEST(names(host) == std::set<std::string>{"a"});
        BOOST_TEST(must(host.disk().snapshots()).empty());
    }
    must(run(host, "transaction",
             actions({action("block-dirty-bitmap-add", new_bitmap("b")), snapshot,
                      action("block-dirty-bitmap-remove", bitmap("a"))})));
    BOOST_TEST(names(host) == std::set<std::string>{"b"});
    BOOST_TEST(must(host.disk().snapshots()).size() == 1u);
}

BOOST_AUTO_TEST_CASE(size_and_snapshots_change)
{
    MemoryHost host;
    must(run(host, "blockdev-snapshot-internal-sync", {{"device", "disk"}, {"name", "s"}}));
    must(run(host, "block_resize", {{"node-name", "disk"}, {"size", 2 << 20}}));
    BOOST_TEST(host.disk().size() == 2u << 20);
    must(run(host, "snapshot-revert", {{"id-or-name", "s"}}));
    BOOST_TEST(host.disk().size() == MemoryHost::disk_size);
    const Json gone = must(run(host, "blockdev-snapshot-delete-internal-sync",
                               {{"device", "disk"}, {"id", "1"}, {"name", "s"}}));
    BOOST_TEST(gone["name"] == "s");
    BOOST_TEST(must(host.disk().snapshots()).empty());
}

BOOST_AUTO_TEST_CASE(after_quit_nothing_is_served_and_the_file_is_whole)
{
    MemoryHost host;
    must(run(host, "block-dirty-bitmap-add", new_bitmap("a")));
    must(host.disk().write(GuestOffset(0), Bytes(Buffer(100)), false));
    must(run(host, "quit"));
    Buffer bytes(10);
    BOOST_TEST((host.disk().read(GuestOffset(0), bytes).error().code == Errc::shut_down));
    BOOST_TEST((host.disk().write(GuestOffset(0), bytes, false).error().code == Errc::shut_down));
    must(host.disk().settle());
    must(host.disk().close());
    const Json status = must(run(host, "query-status"));
    BOOST_TEST(status["status"] == "shutdown");
    BOOST_TEST(!run(host, "query-block"));

    MemoryStore store(host.image());
    const auto disk = must(Disk::open(store, {}));
    const auto states = must(disk->bitmap_states());
    BOOST_TEST_REQUIRE(states.size() == 1u);
    BOOST_TEST(!states[0].inconsistent);
    BOOST_TEST(states[0].dirty_bytes == 65536u);
}

BOOST_AUTO_TEST_SUITE_END()
