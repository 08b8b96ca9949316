// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/config.h"

#include <algorithm>
#include <bit>
#include <optional>

#include <nbdkit-filter.h>

#include "core/base/arith.h"
#include "core/base/log.h"
#include "core/format/bitmap_directory.h"
#include "core/format/limits.h"
#include "core/image/create.h"
#include "filter/command_line.h"
#include "filter/key_values.h"
#include "filter/server_user.h"
#include "filter/typing_errors.h"

namespace qcow2 {

namespace {

// No disk is so small, bytes; a number without its suffix is.
constexpr std::uint64_t unlikely_size = 1 << 20;

Result<void> take_bitmap(Config &config, const char *value)
{
    const std::string name = value;
    TRY(check_bitmap_name(name).in("bitmap="));
    auto &names = config.disk.bitmaps;
    if (std::find(names.begin(), names.end(), name) == names.end())
        names.push_back(name);
    return {};
}

Result<void> take_bitmap_granularity(Config &config, const char *value)
{
    const Error wrong = not_a("bitmap-granularity", value, "a power of two from 512 to 2G");
    const std::uint64_t n = TRY(parse_size(value, wrong));
    const std::uint32_t bits = n == 0 ? 0 : static_cast<std::uint32_t>(std::countr_zero(n));
    if (!is_power_of_two(n) || bits < limits::bitmap_granularity_bits_min ||
        bits > limits::bitmap_granularity_bits_max)
        return wrong;
    config.disk.bitmap_granularity_bits = bits;
    return {};
}

Result<void> take_bitmap_sync(Config &config, const char *value)
{
    const std::string_view word = value;
    if (word != "durable" && word != "on-close")
        return invalid(formatted("bitmap-sync={}: the word must be durable or on-close", value));
    config.disk.bitmap_sync = word == "durable" ? BitmapSync::durable : BitmapSync::on_close;
    return {};
}

Result<void> take_bitmap_recover(Config &config, const char *value)
{
    const std::string_view word = value;
    if (word != "keep" && word != "all-dirty")
        return invalid(formatted("bitmap-recover={}: the word must be keep or all-dirty", value));
    config.disk.recover_all_dirty = word == "all-dirty";
    return {};
}

Result<void> take_qcow2_cache(Config &config, const char *value)
{
    constexpr std::uint64_t cache_bytes_min = 64 << 10;
    const Error wrong = not_a("qcow2-cache", value, "a size of 64K or more");
    const std::uint64_t size = TRY(parse_size(value, wrong));
    if (size < cache_bytes_min)
        return wrong;
    config.disk.cache_bytes = size;
    return {};
}

// Only one a time: what the order would be is for the person to say.
Result<void> set_maintenance(Config &config, Maintenance maintenance)
{
    if (config.maintenance)
        return invalid(formatted("{}: one maintenance key at a time; there is {} already",
                                 maintenance.key, config.maintenance->key));
    config.maintenance = std::move(maintenance);
    return {};
}

Result<void> take_bitmap_remove(Config &config, const char *value)
{
    if (*value == '\0')
        return invalid("bitmap-remove=: the name of a bitmap is missing");
    return set_maintenance(config, remove_maintenance(formatted("bitmap-remove={}", value), value));
}

// Never by half a word: all bitmaps are lost.
Result<void> take_bitmap_remove_all(Config &config, const char *value)
{
    const std::string key = formatted("bitmap-remove-all={}", value);
    if (std::string_view(value) != "yes")
        return invalid(formatted("{}: the word must be yes", key));
    return set_maintenance(config, remove_maintenance(key, std::nullopt));
}

Result<void> take_qcow2_check(Config &config, const char *value)
{
    const std::string_view word = value;
    const std::string key = formatted("qcow2-check={}", word);
    if (word == "report")
        return set_maintenance(config, check_maintenance(key, std::nullopt));
    if (word == "leaks")
        return set_maintenance(config, check_maintenance(key, RepairKind::leaks));
    if (word == "all")
        return set_maintenance(config, check_maintenance(key, RepairKind::all));
    return invalid(formatted("{}: the word must be report, leaks or all", key));
}

Result<void> take_qcow2_control(Config &config, const char *value)
{
    if (*value == '\0')
        return invalid("qcow2-control=: the path of a socket is missing");
    const std::string path = TRY(absolute_path("qcow2-control", value));
    if (!config.control.empty())
        return invalid(formatted("qcow2-control={}: there is one already, {}", value,
                                 shell_word(config.control)));
    config.control = path;
    return {};
}

Result<void> take_qcow2_create(Config &config, const char *value)
{
    const std::uint64_t size = TRY(parse_size(value, not_a("qcow2-create", value, "a size")));
    const std::string given = formatted("qcow2-create={}", value);
    TRY(check_disk_size(size).in(given));
    if (size < unlikely_size)
        log_warning("{}: a disk of less than 1M; was a suffix forgotten, as in {}G?", given, size);
    config.create_size = size;
    return {};
}

Result<void> take_qcow2_discard(Config &config, const char *value)
{
    const std::string_view word = value;
    if (word != "unmap" && word != "keep")
        return invalid(formatted("qcow2-discard={}: the word must be unmap or keep", value));
    config.disk.keep_clusters = word == "keep";
    return {};
}

Result<void> take_qcow2_files(Config &config, const char *value)
{
    const std::string path = TRY(absolute_path("qcow2-files", value));
    return config.named_files.allow(path).in("qcow2-files=");
}

Result<void> take_qcow2_resize(Config &config, const char *value)
{
    const std::uint64_t size = TRY(parse_size(value, not_a("qcow2-resize", value, "a size")));
    TRY(check_disk_size(size).in("qcow2-resize={}", value));
    config.disk.size_min = size;
    return {};
}

Result<void> take_qcow2_lock(Config &config, const char *value)
{
    const int on = nbdkit_parse_bool(value);
    if (on == -1)
        return invalid(formatted("qcow2-lock={}: must be on or off", value));
    config.lock = on == 1;
    if (!config.lock)
        config.named_files.do_not_lock();
    return {};
}

Result<void> take_qcow2_snapshot(Config &config, const char *value)
{
    if (*value == '\0')
        return invalid("qcow2-snapshot=: the ID or the name of a snapshot is missing");
    config.disk.snapshot = value;
    return {};
}

Result<void> take_qcow2_revert(Config &config, const char *value)
{
    if (*value == '\0')
        return invalid("qcow2-revert=: the ID or the name of a snapshot is missing");
    return set_maintenance(config, revert_maintenance(formatted("qcow2-revert={}", value), value));
}

Result<void> take_qcow2_scratch(Config &config, const char *value)
{
    const std::string path = TRY(absolute_path("qcow2-scratch", value));
    const ServerUser::Scope as_server(ServerUser::of(server_arguments()));
    return config.scratch.set_directory(path).in("qcow2-scratch=");
}

Result<void> take_qcow2_scratch_max(Config &config, const char *value)
{
    const Error wrong = not_a("qcow2-scratch-max", value, "a size of 1M or more");
    const std::uint64_t size = TRY(parse_size(value, wrong));
    if (size < unlikely_size)
        return wrong;
    config.scratch.set_bytes_max(size);
    return {};
}

// SIZE, or OLD:SIZE.
Result<void> take_qcow2_shrink(Config &config, const char *value)
{
    const Error wrong = not_a("qcow2-shrink", value, "a size of 1 byte or more");
    std::string_view size = value;
    Shrinking shrinking;
    if (const std::size_t colon = size.find(':'); colon != size.npos) {
        shrinking.from = TRY(parse_size(size.substr(0, colon), wrong));
        size.remove_prefix(colon + 1);
    }
    shrinking.to = align_up(TRY(parse_size(size, wrong)), limits::sector);
    if (shrinking.to == 0)
        return wrong;
    return set_maintenance(config,
                           shrink_maintenance(formatted("qcow2-shrink={}", value), shrinking));
}

struct Key {
    std::string_view name;
    std::string_view value;
    Result<void> (*take)(Config &, const char *);
    std::string_view help;
};

constexpr Key keys[] = {
    {"bitmap", "<NAME>", take_bitmap, "This bitmap exists and is enabled; may be repeated."},
    {"bitmap-granularity", "<SIZE>", take_bitmap_granularity,
     "Granularity of bitmaps that bitmap= makes, 512 to 2G."},
    {"bitmap-recover", "keep|all-dirty", take_bitmap_recover,
     "Inconsistent bitmaps stay (default), or get all bits set."},
    {"bitmap-remove", "<NAME>", take_bitmap_remove,
     "Serve nothing; take this bitmap out of the image, and exit."},
    {"bitmap-remove-all", "yes", take_bitmap_remove_all,
     "Serve nothing; take all bitmaps out of the image, and exit."},
    {"bitmap-sync", "durable|on-close", take_bitmap_sync,
     "Bitmaps survive a crash (default), or as with QEMU."},
    {"qcow2-cache", "<SIZE>", take_qcow2_cache, "Memory for metadata (default: enough for 210G)."},
    {"qcow2-check", "report|leaks|all", take_qcow2_check,
     "Serve nothing; check or repair the image, and exit."},
    {"qcow2-control", "<SOCKET>", take_qcow2_control,
     "Manage the disk while it is served: QMP on this socket."},
    {"qcow2-create", "<SIZE>", take_qcow2_create,
     "Where nothing is, make an image of this size first."},
    {"qcow2-discard", "unmap|keep", take_qcow2_discard,
     "Trim and zero give clusters back (default), or keep them."},
    {"qcow2-files", "<DIR>", take_qcow2_files,
     "Files that the image names may be opened below; repeatable."},
    {"qcow2-lock", "on|off", take_qcow2_lock,
     "Keep QEMU and us off each other's files (default on)."},
    {"qcow2-resize", "<SIZE>", take_qcow2_resize,
     "The disk has at least this size: a smaller one grows."},
    {"qcow2-revert", "<ID-OR-NAME>", take_qcow2_revert,
     "Serve nothing; switch to this internal snapshot, and exit."},
    {"qcow2-scratch", "<DIR>", take_qcow2_scratch,
     "Where backups keep what is overwritten meanwhile."},
    {"qcow2-scratch-max", "<SIZE>", take_qcow2_scratch_max,
     "And how much, for each (default: half of what is free)."},
    {"qcow2-shrink", "[<OLD>:]<SIZE>", take_qcow2_shrink,
     "Serve nothing; cut a larger disk to this size, and exit."},
    {"qcow2-snapshot", "<ID-OR-NAME>", take_qcow2_snapshot,
     "Serve this internal snapshot, read-only."},
};

// file= and fd= go on to the plugin, but we want to know the file too. Resolved
// here, because nbdkit changes its directory when it becomes a daemon.
Result<void> watch_file(Config &config, const char *value)
{
    const std::string path = TRY(absolute_path("file", value));
    config.files.emplace_back(path);
    return {};
}

// More than that is another word.
constexpr std::size_t typing_errors_max = 2;

bool has_our_prefix(std::string_view key)
{
    return key.starts_with("qcow2-") || key.starts_with("bitmap");
}

std::string make_help()
{
    constexpr std::size_t column = 30;
    std::string text;
    for (const Key &key : keys) {
        std::string line = formatted("{}={}", key.name, key.value);
        line.resize(std::max(line.size() + 1, column), ' ');
        text += formatted("{}{}\n", line, key.help);
    }
    return text;
}

}  // namespace

std::string Config::keys_that_change() const
{
    std::string keys = disk.bitmaps.empty() ? "" : "bitmap=";
    if (disk.recover_all_dirty)
        keys += keys.empty() ? "bitmap-recover=" : ", bitmap-recover=";
    if (create_size)
        keys += keys.empty() ? "qcow2-create=" : ", qcow2-create=";
    if (disk.size_min != 0)
        keys += keys.empty() ? "qcow2-resize=" : ", qcow2-resize=";
    return keys;
}

Result<bool> take_key(Config &config, std::string_view key, const char *value)
{
    for (const Key &known : keys) {
        if (known.name == key) {
            TRY(known.take(config, value));
            return true;
        }
    }
    // A typing error must not end in the plugin, which might take it.
    if (has_our_prefix(key))
        return invalid(formatted("unknown parameter {}", quote(key)));
    if (key == "dir" || key == "dirfd")
        return invalid(formatted("{}=: this filter serves one image; name its file by file=", key));
    if (key == "file")
        TRY(watch_file(config, value));
    if (key == "fd")
        TRY(watch_file(config, (std::string("/proc/self/fd/") + value).c_str()));
    return false;
}

std::string advice_on(std::string_view key)
{
    std::string_view nearest;
    std::size_t distance = typing_errors_max + 1;
    for (const Key &known : keys) {
        if (known.name == key)
            return {};
        if (const std::size_t from_here = typing_errors(key, known.name); from_here < distance) {
            nearest = known.name;
            distance = from_here;
        }
    }
    if (nearest.empty() && !has_our_prefix(key))
        return {};
    return formatted("if {} was meant for qcow2bitmap: {} has these parameters:\n{}", quote(key),
                     nearest.empty() ? "it" : formatted("did you mean {}=? It", nearest),
                     config_help());
}

const char *config_help()
{
    static const std::string text = make_help();
    return text.c_str();
}

}  // namespace qcow2
