// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/control/backup_commands.h"

#include <boost/test/unit_test.hpp>

#include "core/base/notice.h"
#include "tests/support/conversation.h"
#include "tests/support/frozen_disk_driver.h"
#include "tests/support/must.h"

using namespace qcow2;
using namespace qcow2::test;

BOOST_AUTO_TEST_SUITE(backup_commands)

namespace {

struct Backed {
    MemoryScratchMaker maker;
    MemoryHost host{false, &maker};

    Result<Json> run(std::string_view name, const Json &arguments = Json::object())
    {
        const Command &command = *find_command(name);
        BOOST_TEST_REQUIRE(!find_wrong(arguments, command.arguments).has_value(), arguments);
        Result<Json> done = run_command(command, host, arguments);
        if (done)
            BOOST_TEST(find_wrong(*done, command.answer).value_or("") == "",
                       name << " answers " << *done);
        return done;
    }
    void add(const char *bitmap, bool disabled = false)
    {
        must(run(
            "block-dirty-bitmap-add",
            {{"node", "disk"}, {"name", bitmap}, {"persistent", true}, {"disabled", disabled}}));
    }
    void write(std::uint64_t offset)
    {
        must(host.disk().write(GuestOffset(offset), Buffer(100), false));
    }
    std::uint64_t dirty(const char *bitmap)
    {
        for (const BitmapState &state : must(host.disk().bitmap_states()))
            if (state.name == bitmap)
                return state.dirty_bytes;
        return ~std::uint64_t(0);
    }
};

constexpr std::uint64_t granule = 65536;

}  // namespace

BOOST_FIXTURE_TEST_CASE(a_bitmap_is_rotated_if_the_backup_succeeds, Backed)
{
    add("b");
    write(0);
    const Json begun = must(run("backup-begin", {{"id", "mon"}, {"bitmap", "b"}}));
    BOOST_TEST(begun["id"] == "mon");
    BOOST_TEST(begun["mode"] == "incremental");
    BOOST_TEST(begun["dirty-bytes"] == granule);
    BOOST_TEST(begun["size"] == MemoryHost::disk_size);
    write(5 * granule);
    BOOST_TEST(dirty("b") == 2 * granule);
    BOOST_TEST(!run("backup-begin", {{"id", "mon"}}));
    for (const char *busy : {"remove", "clear", "disable"}) {
        const auto done =
            run(std::string("block-dirty-bitmap-") + busy, {{"node", "disk"}, {"name", "b"}});
        BOOST_TEST(words(done) ==
                   "busy: Bitmap 'b' is currently in use by another operation and cannot be used");
    }
    const Json running = must(run("query-backups"));
    BOOST_TEST_REQUIRE(running.size() == 1u);
    BOOST_TEST(running[0]["state"] == "active");
    BOOST_TEST(running[0]["bitmaps"] == Json({"b"}));
    must(run("backup-end", {{"id", "mon"}, {"success", true}}));
    BOOST_TEST(dirty("b") == granule);
    BOOST_TEST(must(run("query-backups")) == Json::array());
    BOOST_TEST(!run("backup-end", {{"id", "mon"}, {"success", true}}));

    // And stays if it does not.
    must(run("backup-begin", {{"id", "tue"}, {"bitmap", "b"}}));
    write(0);
    must(run("backup-end", {{"id", "tue"}, {"success", false}}));
    BOOST_TEST(dirty("b") == 2 * granule);
}

BOOST_FIXTURE_TEST_CASE(the_mode_is_what_is_possible, Backed)
{
    add("b");
    add("asleep", true);
    const auto mode_of = [&](Json arguments) -> std::string {
        const auto begun = run("backup-begin", arguments);
        if (!begun)
            return begun.error().what;
        must(run("backup-end", {{"id", (*begun)["id"]}, {"success", false}}));
        const std::string mode = (*begun)["mode"];
        return begun->contains("why-full") ? mode + ": " + (*begun)["why-full"].get<std::string>()
                                           : mode;
    };
    BOOST_TEST(mode_of(Json::object()) == "full");
    BOOST_TEST(mode_of({{"bitmap", "b"}}) == "incremental");
    BOOST_TEST(mode_of({{"bitmap", "b"}, {"mode", "full"}}) == "full");
    BOOST_TEST(mode_of({{"bitmap", "b"}, {"mode", "auto"}}) == "incremental");
    BOOST_TEST(mode_of({{"bitmap", "new"}, {"mode", "incremental"}}) ==
               "There is no bitmap 'new' that says what has changed; a full backup is possible");
    BOOST_TEST(mode_of({{"bitmap", "new"}, {"mode", "auto"}}) ==
               "full: There is no bitmap 'new' that says what has changed");
    // It is made, and covers everything until a backup has succeeded.
    BOOST_TEST(dirty("new") == MemoryHost::disk_size);
    BOOST_TEST(mode_of({{"bitmap", "asleep"}}) ==
               "Bitmap 'asleep' is disabled, and has not seen what has changed; "
               "a full backup is possible");
    BOOST_TEST(mode_of({{"mode", "incremental"}}) ==
               "Mode 'incremental' needs a bitmap, which says what has changed");
    BOOST_TEST(mode_of({{"bitmap", "b"}, {"bitmaps", {"b"}}}) ==
               "Parameters 'bitmap' and 'bitmaps' cannot both be given");
    BOOST_TEST(mode_of({{"whole", false}}) == "A full backup shows the whole disk");
    BOOST_TEST(mode_of({{"timeout", 0}}) == "Parameter 'timeout' must be from 1 to 31622400");
    BOOST_TEST(mode_of({{"scratch-max", -5}}) ==
               "Parameter 'scratch-max' must be from 1 to 9223372036854775807");
    BOOST_TEST(mode_of({{"bitmaps", {"b", "b"}}}) ==
               "Bitmap 'b' is currently in use by another operation and cannot be used");
    // Numbers are not given twice.
    const Json first = must(run("backup-begin")), second = must(run("backup-begin"));
    BOOST_TEST(first["id"] != second["id"]);
    BOOST_TEST(must(run("query-backups")).size() == 2u);
}

BOOST_FIXTURE_TEST_CASE(a_backup_begins_with_other_changes_or_not_at_all, Backed)
{
    add("b");
    const Json begin = {{"type", "backup-begin"},
                        {"data", {{"id", "x"}, {"bitmap", "c"}, {"mode", "auto"}}}};
    const Json add_c = {{"type", "block-dirty-bitmap-add"},
                        {"data", {{"node", "disk"}, {"name", "c"}, {"persistent", true}}}};
    BOOST_TEST(!run("transaction",
                    {{"actions", {add_c, begin, {{"type", "abort"}, {"data", Json::object()}}}}}));
    BOOST_TEST(!run("transaction", {{"actions", {begin, begin}}}));
    BOOST_TEST(must(run("query-backups")).empty());
    const Json done = must(run("transaction", {{"actions", {add_c, begin}}}));
    BOOST_TEST(done["backup"]["mode"] == "incremental");
    BOOST_TEST(must(run("query-backups")).size() == 1u);
}

BOOST_FIXTURE_TEST_CASE(a_lease_is_renewed_by_reading_and_then_it_is_over, Backed)
{
    static std::vector<Notice> notices;
    notices.clear();
    set_notice_sink([](const Notice &notice) { notices.push_back(notice); });
    const Json begun = must(run("backup-begin", {{"id", "x"}, {"timeout", 10}}));
    const auto now = Leases::Clock::now();
    const auto look = [&](int seconds) {
        host.leases.look(host.disk(), now + std::chrono::seconds(seconds));
    };
    const auto left = must(run("query-backups"))[0]["lease-left"].get<int>();
    BOOST_TEST((left > 8 && left <= 10));
    look(9);
    BOOST_TEST(must(run("query-backups")).size() == 1u);
    Buffer bytes(10);
    must(host.disk().backup("x")->disk->read(GuestOffset(0), bytes));
    look(15);
    look(24);
    BOOST_TEST(must(run("query-backups")).size() == 1u);
    BOOST_TEST(notices.empty());
    look(26);
    BOOST_TEST(must(run("query-backups")).empty());
    BOOST_TEST_REQUIRE(notices.size() == 1u);
    BOOST_TEST((notices[0].kind == Notice::Kind::backup_expired));
    BOOST_TEST(notices[0].name == "x");
    BOOST_TEST(host.leases.none());
    // One that is ended has none.
    must(run("backup-begin", {{"id", "y"}, {"timeout", 10}}));
    must(run("backup-end", {{"id", "y"}, {"success", false}}));
    BOOST_TEST(host.leases.none());
    set_notice_sink(nullptr);
}

BOOST_FIXTURE_TEST_CASE(a_broken_one_says_so_and_cannot_succeed, Backed)
{
    static std::vector<Notice> notices;
    notices.clear();
    set_notice_sink([](const Notice &notice) { notices.push_back(notice); });
    must(host.disk().write(GuestOffset(0), Buffer(200000, 1), false));
    must(run("backup-begin", {{"id", "x"}, {"scratch-max", 4096}}));
    must(host.disk().write(GuestOffset(0), Buffer(200000, 2), false));
    const Json state = must(run("query-backups"))[0];
    BOOST_TEST(state["state"] == "broken");
    BOOST_TEST(state["reason"] != "");
    BOOST_TEST_REQUIRE(notices.size() == 1u);
    BOOST_TEST((notices[0].kind == Notice::Kind::backup_broken));
    BOOST_TEST(!run("backup-end", {{"id", "x"}, {"success", true}}));
    must(run("backup-end", {{"id", "x"}, {"success", false}}));
    set_notice_sink(nullptr);
}

BOOST_FIXTURE_TEST_CASE(quit_ends_them_as_failed, Backed)
{
    add("b");
    write(0);
    must(run("backup-begin", {{"id", "x"}, {"bitmap", "b"}}));
    write(5 * granule);
    const auto backup = host.disk().backup("x");
    must(run("quit"));
    Buffer bytes(10);
    BOOST_TEST(!backup->disk->read(GuestOffset(0), bytes));
    MemoryStore store(host.image());
    const auto disk = must(Disk::open(store, {}));
    BOOST_TEST(must(disk->bitmap_states())[0].dirty_bytes == 2 * granule);
}

BOOST_AUTO_TEST_SUITE_END()
