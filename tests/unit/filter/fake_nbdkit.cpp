// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/unit/filter/fake_nbdkit.h"

#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "core/base/invariant.h"
#include "core/base/log.h"

// One is asked for at a time.
struct nbdkit_extents {
    nbdkit_extent first{};
};

namespace qcow2::test {

namespace {

std::mutex said_mutex;
std::vector<std::string> said_lines;

struct FakeContext : nbdkit_next_ops {
    FakeLayer *layer;
    bool prepared = false;
    bool for_reading = false;
    int descriptor = -1;
    std::uint64_t size = 0;
    bool size_asked = false, can_write_asked = false, can_flush_asked = false,
         can_trim_asked = false, can_zero_asked = false;
};

FakeContext &context_of(nbdkit_next *next) { return *static_cast<FakeContext *>(next); }
FakeLayer &layer_of(nbdkit_next *next) { return *context_of(next).layer; }

// One call: counted, written down, and refused if it must be.
template <class Body>
int call(nbdkit_next *next, const char *name, const Range &range, int *err, Body body)
{
    FakeContext &context = context_of(next);
    FakeLayer &layer = *context.layer;
    const unsigned at_once = ++layer.calls_at_once;
    unsigned most = layer.calls_at_once_max.load();
    while (at_once > most && !layer.calls_at_once_max.compare_exchange_weak(most, at_once)) {}
    INVARIANT(context.prepared);
    {
        const std::lock_guard<std::mutex> lock(layer.mutex);
        layer.calls.push_back(std::string(name) + " " + hex(range.begin) + " +" +
                              std::to_string(range.length()));
    }
    int cause = layer.before ? layer.before(name, range) : 0;
    if (cause == 0)
        cause = body();
    --layer.calls_at_once;
    if (cause != 0 && *err == 0)  // so does nbdkit
        *err = cause;
    return cause == 0 ? 0 : -1;
}

Range data_range(nbdkit_next *next, std::uint32_t count, std::uint64_t offset)
{
    const FakeContext &context = context_of(next);
    const FakeLayer &layer = *context.layer;
    const Range range = Range::of(offset, count);
    INVARIANT(context.size_asked && count > 0 && count <= 32u << 20);
    INVARIANT(fits(offset, count, context.size));
    if (layer.minimum != 0) {
        INVARIANT(is_aligned(range.begin, layer.minimum));
        INVARIANT(is_aligned(range.end, layer.minimum) || range.end == context.size);
        INVARIANT(range.length() <= layer.maximum);
    }
    return range;
}

int fake_prepare(nbdkit_next *next)
{
    context_of(next).prepared = true;
    return 0;
}

int fake_finalize(nbdkit_next *next)
{
    INVARIANT(context_of(next).prepared);
    context_of(next).prepared = false;
    return 0;
}

std::int64_t fake_get_size(nbdkit_next *next)
{
    FakeContext &context = context_of(next);
    if (!context.size_asked) {
        const std::int64_t is = context.layer->size_is;
        context.size = is >= 0 ? static_cast<std::uint64_t>(is) : context.layer->bytes.size();
        context.size_asked = true;
    }
    return static_cast<std::int64_t>(context.size);
}

int fake_block_size(nbdkit_next *next, std::uint32_t *minimum, std::uint32_t *preferred,
                    std::uint32_t *maximum)
{
    *minimum = layer_of(next).minimum;
    *preferred = layer_of(next).preferred;
    *maximum = layer_of(next).maximum;
    return 0;
}

bool writable(nbdkit_next *next)
{
    return layer_of(next).writable && !context_of(next).for_reading;
}

int fake_can_write(nbdkit_next *next)
{
    context_of(next).can_write_asked = true;
    return writable(next);
}

int fake_can_flush(nbdkit_next *next)
{
    context_of(next).can_flush_asked = true;
    return layer_of(next).flushes;
}

int fake_can_trim(nbdkit_next *next)
{
    context_of(next).can_trim_asked = true;
    return layer_of(next).trims && writable(next);
}

int fake_can_zero(nbdkit_next *next)
{
    context_of(next).can_zero_asked = true;
    return writable(next) ? layer_of(next).zeroes : NBDKIT_ZERO_NONE;
}

int fake_can_multi_conn(nbdkit_next *next) { return layer_of(next).multi_conn; }
int fake_no(nbdkit_next *) { return 0; }

int fake_can_extents(nbdkit_next *next) { return layer_of(next).hole.has_value(); }

int fake_pread(nbdkit_next *next, void *buf, std::uint32_t count, std::uint64_t offset,
               std::uint32_t flags, int *err)
{
    INVARIANT(flags == 0);
    const Range range = data_range(next, count, offset);
    return call(next, "pread", range, err, [&] {
        return layer_of(next).bytes.read(offset,
                                         MutableBytes(static_cast<std::uint8_t *>(buf), count));
    });
}

int fake_pwrite(nbdkit_next *next, const void *buf, std::uint32_t count, std::uint64_t offset,
                std::uint32_t flags, int *err)
{
    INVARIANT(flags == 0 && context_of(next).can_write_asked && writable(next));
    const Range range = data_range(next, count, offset);
    return call(next, "pwrite", range, err, [&] {
        return layer_of(next).bytes.write(offset,
                                          Bytes(static_cast<const std::uint8_t *>(buf), count));
    });
}

// What is before the hole, it, or what is behind it.
int fake_extents(nbdkit_next *next, std::uint32_t count, std::uint64_t offset, std::uint32_t flags,
                 nbdkit_extents *extents, int *err)
{
    INVARIANT(flags == NBDKIT_FLAG_REQ_ONE);
    return call(next, "extents", data_range(next, count, offset), err, [&] {
        const Range hole = *layer_of(next).hole;
        if (offset < hole.begin)
            extents->first = {offset, hole.begin - offset, 0};
        else if (offset < hole.end)
            extents->first = {offset, hole.end - offset, NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO};
        else
            extents->first = {offset, context_of(next).size - offset, 0};
        return 0;
    });
}

int fake_flush(nbdkit_next *next, std::uint32_t flags, int *err)
{
    INVARIANT(flags == 0 && context_of(next).can_flush_asked && layer_of(next).flushes);
    return call(next, "flush", {}, err, [&] {
        ++layer_of(next).flushes_done;
        return 0;
    });
}

int fake_trim(nbdkit_next *next, std::uint32_t count, std::uint64_t offset, std::uint32_t flags,
              int *err)
{
    INVARIANT(flags == 0 && context_of(next).can_trim_asked && layer_of(next).trims);
    return call(next, "trim", data_range(next, count, offset), err, [] { return 0; });
}

int fake_zero(nbdkit_next *next, std::uint32_t count, std::uint64_t offset, std::uint32_t flags,
              int *err)
{
    INVARIANT((flags & ~NBDKIT_FLAG_MAY_TRIM) == 0);
    INVARIANT(context_of(next).can_zero_asked && layer_of(next).zeroes != NBDKIT_ZERO_NONE);
    const char *name = flags ? "zero-trim" : "zero";
    return call(next, name, data_range(next, count, offset), err,
                [&] { return layer_of(next).bytes.write(offset, Buffer(count)); });
}

std::string formatted(const char *format, va_list arguments)
{
    char *text = nullptr;
    INVARIANT(vasprintf(&text, format, arguments) >= 0);
    std::string result = text;
    free(text);
    return result;
}

}  // namespace

std::vector<std::string> said()
{
    const std::lock_guard<std::mutex> lock(said_mutex);
    return std::exchange(said_lines, {});
}

}  // namespace qcow2::test

// --- The names that the filter is linked with.

using namespace qcow2;
using namespace qcow2::test;

extern "C" {

void nbdkit_error(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    std::string line = formatted(format, arguments);
    va_end(arguments);
    const std::lock_guard<std::mutex> lock(said_mutex);
    said_lines.push_back(std::move(line));
}

void nbdkit_debug(const char *, ...) {}

void nbdkit_shutdown(void) {}

int nbdkit_nanosleep(unsigned, unsigned) { return told_to_end ? -1 : 0; }

nbdkit_extents *nbdkit_extents_new(std::uint64_t, std::uint64_t) { return new nbdkit_extents; }
void nbdkit_extents_free(nbdkit_extents *extents) { delete extents; }
std::size_t nbdkit_extents_count(const nbdkit_extents *extents)
{
    return extents->first.length != 0;
}
nbdkit_extent nbdkit_get_extent(const nbdkit_extents *extents, std::size_t)
{
    return extents->first;
}

int nbdkit_stdio_safe(void) { return 1; }

// Numbers with K, M, G: enough for tests.
std::int64_t nbdkit_parse_size(const char *text)
{
    char *end;
    const long long number = std::strtoll(text, &end, 10);
    const std::string suffix = end;
    const int shift = suffix.empty()  ? 0
                      : suffix == "K" ? 10
                      : suffix == "M" ? 20
                      : suffix == "G" ? 30
                                      : -1;
    return end == text || number < 0 || shift < 0 ? -1 : static_cast<std::int64_t>(number) << shift;
}

int nbdkit_parse_bool(const char *text)
{
    const std::string word = text;
    return word == "on" ? 1 : word == "off" ? 0 : -1;
}

char *nbdkit_absolute_path(const char *path)
{
    return strdup((path[0] == '/' ? std::string(path) : std::string("/here/") + path).c_str());
}

nbdkit_next *nbdkit_next_context_open(nbdkit_backend *backend, int readonly, const char *exportname,
                                      int shared)
{
    auto *layer = reinterpret_cast<FakeLayer *>(backend);
    INVARIANT(shared == 1 && *exportname == '\0');
    int ignored = 0;
    auto *context = new FakeContext;
    *static_cast<nbdkit_next_ops *>(context) = nbdkit_next_ops{fake_prepare,    fake_finalize,
                                                               fake_get_size,   nullptr,
                                                               fake_block_size, fake_can_write,
                                                               fake_can_flush,  fake_no,
                                                               fake_can_trim,   fake_can_zero,
                                                               fake_no,         fake_can_extents,
                                                               fake_no,         fake_can_multi_conn,
                                                               fake_no,         fake_pread,
                                                               fake_pwrite,     fake_flush,
                                                               fake_trim,       fake_zero,
                                                               fake_extents,    nullptr};
    context->layer = layer;
    context->for_reading = readonly;
    context->prepared = true;
    const int refused = call(context, "open", {}, &ignored, [&] {
        errno = 0;
        context->descriptor = layer->bytes.open_again();
        return context->descriptor == -1 ? errno : 0;
    });
    context->prepared = false;
    if (refused == -1) {
        delete context;
        return nullptr;
    }
    ++layer->contexts_open;
    ++layer->contexts_opened;
    return context;
}

void nbdkit_next_context_close(nbdkit_next *next)
{
    INVARIANT(!context_of(next).prepared);
    --layer_of(next).contexts_open;
    if (context_of(next).descriptor != -1)
        ::close(context_of(next).descriptor);
    delete &context_of(next);
}

}  // extern "C"
