// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/modules_below.h"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <string_view>
#include <vector>

namespace qcow2 {

namespace {

// Filters of nbdkit that change neither bytes nor places. Not offset, partition,
// truncate, tar, xz, gzip, luks, ext2, swab, scan, ddrescue, extentlist, nor
// tls-fallback, which gives other bytes to those whom it does not trust.
constexpr std::string_view identity_filters[] = {
    "blocksize",
    "blocksize-policy",
    "cache",
    "cacheextents",
    "checkwrite",
    "cow",
    "delay",
    "error",
    "exitlast",
    "exitwhen",
    "exportname",
    "fua",
    "ip",
    "limit",
    "log",
    "multi-conn",
    "nocache",
    "noextents",
    "nofilter",
    "noparallel",
    "nozero",
    "pause",
    "protect",
    "rate",
    "readahead",
    "retry",
    "retry-request",
    "stats",
};

// (readahead keeps nothing: it asks the layer below it to cache.)

// Those of them under which the file does not grow. cache and cow keep bytes: a
// cache that has not written what it took still writes it when the file has long
// been cut again, and then nbdkit stops the server. limit counts contexts, and
// growth needs a second one.
constexpr std::string_view fixing_filters[] = {"cache", "cow", "limit"};

// These send a request that has failed again. A second flush succeeds where the
// first has lost something, and so does one through a plugin that was opened anew.
constexpr std::string_view retrying_filters[] = {"retry", "retry-request"};

constexpr std::string_view file_plugin_name = "nbdkit-file-plugin.so";

// "cow" of "nbdkit-cow-filter.so"; nothing of another name.
std::string_view filter_name(std::string_view module)
{
    constexpr std::string_view front = "nbdkit-", back = "-filter.so";
    if (!module.starts_with(front) || !module.ends_with(back) ||
        module.size() <= front.size() + back.size())
        return {};
    module.remove_prefix(front.size());
    module.remove_suffix(back.size());
    return module;
}

std::vector<std::string> loaded_objects()
{
    std::vector<std::string> paths;
    dl_iterate_phdr(
        [](dl_phdr_info *info, size_t, void *found) {
            static_cast<std::vector<std::string> *>(found)->emplace_back(info->dlpi_name);
            return 0;
        },
        &paths);
    return paths;
}

// The object that an address is in.
const void *object_of(const void *address)
{
    Dl_info info;
    return address && dladdr(address, &info) ? info.dli_fbase : nullptr;
}

// Where nbdkit enters a filter or plugin, whatever its file is named.
const void *entry_of(const std::string &path)
{
    void *object = path.empty() ? nullptr : dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (!object)
        return nullptr;
    const void *entry = dlsym(object, "filter_init");
    if (!entry)
        entry = dlsym(object, "plugin_init");
    dlclose(object);
    return entry;
}

template <class List>
bool contains(const List &list, std::string_view name)
{
    return std::ranges::find(list, name) != std::ranges::end(list);
}

}  // namespace

ModulesBelow judge_modules(std::span<const std::string> modules)
{
    ModulesBelow stack;
    bool identity = true, fixed = false;
    for (const std::string &module : modules) {
        const std::string_view name = filter_name(module);
        if (module == file_plugin_name)
            stack.file_plugin = true;
        else if (!contains(identity_filters, name))
            identity = false;
        fixed |= contains(fixing_filters, name);
        if (!name.empty() && (!contains(identity_filters, name) || contains(fixing_filters, name)))
            stack.keeps_size = name;
        stack.overlay |= name == "cow";
        if (contains(retrying_filters, name))
            stack.retrying = name;
    }
    stack.identity = stack.file_plugin && identity;
    stack.transparent = stack.identity && !fixed;
    return stack;
}

ModulesBelow inspect_modules_below()
{
    const void *own = object_of(reinterpret_cast<const void *>(&inspect_modules_below));
    std::vector<std::string> below;
    for (const std::string &path : loaded_objects()) {
        const void *entry = entry_of(path);
        if (!entry)
            continue;
        if (object_of(entry) == own)
            break;
        below.push_back(path.substr(path.rfind('/') + 1));
    }
    return judge_modules(below);
}

}  // namespace qcow2
