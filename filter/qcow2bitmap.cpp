// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// What nbdkit calls. Each function translates, lets the engine work, and
// reports.
//
// Every callback of a connection is here, even where the answer is dull: our
// connections have no context of their own in the next layer, and what we leave
// out nbdkit would ask of that context, which is NULL.

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include <nbdkit-filter.h>

#include "core/base/log.h"
#include "filter/config.h"
#include "filter/exports.h"
#include "filter/messages.h"
#include "filter/modules_below.h"
#include "filter/served_image.h"

using namespace qcow2;

namespace {

ServedImage &the_image() { return ServedImage::of_server(); }

// What a handle of nbdkit's is: one client, and what it is served.
struct Connection {
    std::unique_ptr<Export> served;
    std::string name;
    std::string description;
};
Connection &connection(void *handle) { return *static_cast<Connection *>(handle); }
Export &export_of(void *handle) { return *connection(handle).served; }

// Loaded twice we would still have one engine, one above the other.
int times_loaded = 0;

// --- The server.

// A key that nobody else may know, and that was perhaps meant for us. A plugin that refuses it ends
// the process inside of next(): so this is said at exit(), too.
const char *key_on_its_way = nullptr;

void advise()
{
    run([]() -> Result<void> {
        const std::string advice = key_on_its_way ? advice_on(key_on_its_way) : "";
        if (!advice.empty())
            nbdkit_error("%s", advice.c_str());
        return {};
    });
}

void filter_load()
{
    ++times_loaded;
    prepare_warnings();
    std::atexit(advise);
    nbdkit_debug("qcow2bitmap " PACKAGE_VERSION ", for nbdkit " NBDKIT_VERSION_STRING);
}

// nbdkit --dump-plugin, from 1.42 on.
[[maybe_unused]] void filter_dump_plugin() { std::puts("qcow2bitmap_version=" PACKAGE_VERSION); }

int filter_config(nbdkit_next_config *next, nbdkit_backend *backend, const char *key,
                  const char *value)
{
    bool ours = false;
    int done = run([&]() -> Result<void> {
        ours = TRY(take_key(the_image().config(), key, value));
        return {};
    });
    if (ours)
        return done;
    key_on_its_way = key;
    if (done == 0)
        done = next(backend, key, value);
    if (done == -1)
        advise();
    key_on_its_way = nullptr;
    return done;
}

int filter_get_ready(int thread_model)
{
    return run([&]() -> Result<void> {
        if (times_loaded > 1)
            return Error(Errc::invalid, "the qcow2bitmap filter can stand in a stack only once");
        return the_image().get_ready(inspect_modules_below(), thread_model);
    });
}

int filter_after_fork(nbdkit_backend *backend)
{
    // A failure becomes the exit code, which unload() sets: an error would make nbdkit exit with
    // its own.
    run([&] { return the_image().after_fork(backend); });
    return 0;
}

int filter_preconnect(nbdkit_next_preconnect *next, nbdkit_backend *backend, int readonly)
{
    if (next(backend, readonly) == -1)
        return -1;
    return run([&] { return the_image().connect(backend, readonly); });
}

void filter_cleanup(nbdkit_backend *)
{
    run([] { return the_image().close(); });
}

void filter_unload()
{
    run([]() -> Result<void> {
        the_image().unload();
        return {};
    });
}

int filter_list_exports(nbdkit_next_list_exports *, nbdkit_backend *, int, int,
                        nbdkit_exports *exports)
{
    return run([&]() -> Result<void> {
        for (const ExportName &one : TRY(the_image().exports()))
            if (nbdkit_add_export(exports, one.name.c_str(), one.description.c_str()) == -1)
                return Error(Errc::io, "the list of exports cannot be made");
        return {};
    });
}

const char *filter_default_export(nbdkit_next_default_export *, nbdkit_backend *, int, int)
{
    return "";
}

// --- A connection.

void *filter_open(nbdkit_next_open *, nbdkit_context *, int readonly, const char *exportname, int)
{
    std::unique_ptr<Connection> opened;
    run([&]() -> Result<void> {
        auto connection = std::make_unique<Connection>();
        connection->name = exportname;
        connection->served = TRY(the_image().enter(readonly, exportname));
        opened = std::move(connection);
        return {};
    });
    return opened.release();
}

void filter_close(void *handle)
{
    run([&]() -> Result<void> {
        const std::unique_ptr<Connection> gone(&connection(handle));
        gone->served.reset();  // before the engine may close the disk
        the_image().leave(gone->name);
        return {};
    });
}

int filter_prepare(nbdkit_next *, void *, int) { return 0; }
int filter_finalize(nbdkit_next *, void *) { return 0; }

// The text stays as long as the connection.
const char *filter_export_description(nbdkit_next *, void *handle)
{
    const char *text = nullptr;
    run([&]() -> Result<void> {
        connection(handle).description = export_of(handle).description();
        text = connection(handle).description.c_str();
        return {};
    });
    return text;
}

int64_t filter_get_size(nbdkit_next *, void *handle)
{
    return answer([&] { return static_cast<int64_t>(export_of(handle).size()); });
}

// Any request is served.
int filter_block_size(nbdkit_next *, void *handle, uint32_t *minimum, uint32_t *preferred,
                      uint32_t *maximum)
{
    return run([&]() -> Result<void> {
        *minimum = 1;
        *preferred = export_of(handle).preferred_block();
        *maximum = UINT32_MAX;
        return {};
    });
}

int filter_can_write(nbdkit_next *, void *handle)
{
    return answer([&]() -> int { return export_of(handle).can_write(); });
}

int filter_can_flush(nbdkit_next *, void *handle)
{
    return answer([&]() -> int { return export_of(handle).can_flush(); });
}

int filter_is_rotational(nbdkit_next *, void *)
{
    return answer([]() -> int { return the_image().rotational(); });
}

int filter_can_trim(nbdkit_next *, void *) { return 1; }
int filter_can_zero(nbdkit_next *, void *) { return NBDKIT_ZERO_NATIVE; }
int filter_can_fast_zero(nbdkit_next *, void *) { return 1; }
int filter_can_extents(nbdkit_next *, void *) { return 1; }
// One engine: what one client has flushed, all have.
int filter_can_multi_conn(nbdkit_next *, void *) { return 1; }
int filter_can_cache(nbdkit_next *, void *) { return NBDKIT_CACHE_NATIVE; }

int filter_can_fua(nbdkit_next *, void *handle)
{
    return answer([&]() -> int {
        return export_of(handle).can_flush() ? NBDKIT_FUA_NATIVE : NBDKIT_FUA_NONE;
    });
}

// --- Requests.

// read or write: what the request does to the disk.
template <class Body>
int serve_request(int *err, std::string_view operation, Body body)
{
    return serve(err, [&]() -> Result<void> {
        if (the_image().ending())
            return Error(Errc::shut_down, "the server is about to end");
        Result<void> done = body();
        if (!done)
            the_image().request_failed(operation, done.error());
        return done;
    });
}

int filter_pread(nbdkit_next *, void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t,
                 int *err)
{
    return serve_request(err, "read", [&] {
        return export_of(handle).read(GuestOffset(offset),
                                      MutableBytes(static_cast<uint8_t *>(buf), count));
    });
}

int filter_pwrite(nbdkit_next *, void *handle, const void *buf, uint32_t count, uint64_t offset,
                  uint32_t flags, int *err)
{
    return serve_request(err, "write", [&] {
        return export_of(handle).write(GuestOffset(offset),
                                       Bytes(static_cast<const uint8_t *>(buf), count),
                                       flags & NBDKIT_FLAG_FUA);
    });
}

int filter_flush(nbdkit_next *, void *handle, uint32_t, int *err)
{
    return serve_request(err, "write", [&] { return export_of(handle).flush(); });
}

int filter_trim(nbdkit_next *, void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                int *err)
{
    return serve_request(err, "write", [&] {
        return export_of(handle).trim(GuestOffset(offset), count, flags & NBDKIT_FLAG_FUA);
    });
}

int filter_zero(nbdkit_next *, void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                int *err)
{
    ZeroFlags how;
    how.may_unmap = flags & NBDKIT_FLAG_MAY_TRIM;
    how.fast = flags & NBDKIT_FLAG_FAST_ZERO;
    how.fua = flags & NBDKIT_FLAG_FUA;
    bool not_fast = false;
    const int done = serve_request(err, "write", [&] {
        Result<void> zeroed = export_of(handle).zero(GuestOffset(offset), count, how);
        not_fast = how.fast && !zeroed && zeroed.error().code == Errc::unsupported;
        return not_fast ? Result<void>() : std::move(zeroed);
    });
    // An answer that the client asked for, and no error to speak of. Nobody
    // else may get it.
    if (not_fast)
        *err = EOPNOTSUPP;
    return not_fast ? -1 : done;
}

int filter_extents(nbdkit_next *, void *handle, uint32_t count, uint64_t offset, uint32_t,
                   nbdkit_extents *extents, int *err)
{
    return serve_request(err, "read", [&]() -> Result<void> {
        for (const Extent &extent : TRY(export_of(handle).status(GuestOffset(offset), count))) {
            const uint32_t type =
                (extent.hole ? NBDKIT_EXTENT_HOLE : 0) | (extent.zero ? NBDKIT_EXTENT_ZERO : 0);
            if (nbdkit_add_extent(extents, offset, extent.length, type) == -1)
                return Error(Errc::io, "the list of extents cannot be made");
            offset += extent.length;
        }
        return {};
    });
}

int filter_cache(nbdkit_next *, void *handle, uint32_t count, uint64_t offset, uint32_t, int *err)
{
    return serve_request(err, "read",
                         [&] { return export_of(handle).cache(GuestOffset(offset), count); });
}

// What newer headers have, found out by what is there.
template <class Filter>
void set_what_is_new(Filter &filter)
{
    if constexpr (requires { filter.dump_plugin; })
        filter.dump_plugin = filter_dump_plugin;
}

nbdkit_filter make_filter()
{
    nbdkit_filter filter = nbdkit_filter();
    filter.name = "qcow2bitmap";
    filter.longname = "qcow2 disks with dirty bitmaps";
    filter.description =
        "Serves the virtual disk of a qcow2 image, and keeps its dirty bitmaps true.\n"
        "This is qcow2bitmap " PACKAGE_VERSION ".";
    filter.config_help = config_help();
    filter.load = filter_load;
    filter.unload = filter_unload;
    filter.config = filter_config;
    // No .thread_model: without it we are parallel, and its type is another one
    // from nbdkit 1.44 on. get_ready() is told which model it has become.
    filter.get_ready = filter_get_ready;
    filter.after_fork = filter_after_fork;
    filter.cleanup = filter_cleanup;
    filter.preconnect = filter_preconnect;
    filter.list_exports = filter_list_exports;
    filter.default_export = filter_default_export;
    filter.open = filter_open;
    filter.close = filter_close;
    filter.prepare = filter_prepare;
    filter.finalize = filter_finalize;
    filter.get_size = filter_get_size;
    filter.export_description = filter_export_description;
    filter.block_size = filter_block_size;
    filter.can_write = filter_can_write;
    filter.can_flush = filter_can_flush;
    filter.is_rotational = filter_is_rotational;
    filter.can_trim = filter_can_trim;
    filter.can_zero = filter_can_zero;
    filter.can_fast_zero = filter_can_fast_zero;
    filter.can_extents = filter_can_extents;
    filter.can_fua = filter_can_fua;
    filter.can_multi_conn = filter_can_multi_conn;
    filter.can_cache = filter_can_cache;
    filter.pread = filter_pread;
    filter.pwrite = filter_pwrite;
    filter.flush = filter_flush;
    filter.trim = filter_trim;
    filter.zero = filter_zero;
    filter.extents = filter_extents;
    filter.cache = filter_cache;
    set_what_is_new(filter);
    return filter;
}

nbdkit_filter filter = make_filter();

}  // namespace

NBDKIT_REGISTER_FILTER(filter)
