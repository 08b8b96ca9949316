// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/stack.h"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <string_view>
#include <vector>

namespace qcow2 {

namespace {

// Filters of nbdkit that change neither bytes nor places. The others (offset,
// partition, truncate, tar, xz, gzip, luks, ext2, swab, scan, ddrescue,
// extentlist, ...), and those of other people, may stand above us as well as
// below: with them the image is first seen when a client connects.
constexpr std::string_view identity_filters[] = {
    "blocksize",   "blocksize-policy", "cache",        "cacheextents", "checkwrite",
    "cow",         "delay",            "error",        "exitlast",     "exitwhen",
    "exportname",  "fua",              "ip",           "limit",        "log",
    "multi-conn",  "nocache",          "noextents",    "nofilter",     "noparallel",
    "nozero",      "pause",            "protect",      "rate",         "readahead",
    "retry",       "retry-request",    "stats",        "tls-fallback",
};

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

// The object that this code is in.
const void *own_base()
{
    Dl_info info;
    return dladdr(reinterpret_cast<const void *>(&own_base), &info) ? info.dli_fbase : nullptr;
}

// True for filters and plugins, whatever the file is named, but not for us.
bool is_other_module(const std::string &path)
{
    if (path.empty())  // the server itself
        return false;
    void *object = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (!object)
        return false;
    // dlsym also looks into what the object depends on: whose symbol is it?
    bool found = false;
    for (const char *entry : {"filter_init", "plugin_init"}) {
        Dl_info info;
        const void *symbol = dlsym(object, entry);
        found |= symbol && dladdr(symbol, &info) && info.dli_fbase != own_base();
    }
    dlclose(object);
    return found;
}

}  // namespace

Stack judge_stack(std::span<const std::string> modules)
{
    Stack stack;
    stack.identity = true;
    for (const std::string &module : modules) {
        const std::string_view name = filter_name(module);
        if (module == file_plugin_name)
            stack.file_plugin = true;
        else if (std::ranges::find(identity_filters, name) == std::ranges::end(identity_filters))
            stack.identity = false;
        if (name == "cow")
            stack.overlay = true;
    }
    stack.identity &= stack.file_plugin;
    return stack;
}

Stack inspect_stack()
{
    std::vector<std::string> modules;
    for (const std::string &path : loaded_objects()) {
        if (is_other_module(path))
            modules.push_back(path.substr(path.rfind('/') + 1));
    }
    return judge_stack(modules);
}

}  // namespace qcow2
