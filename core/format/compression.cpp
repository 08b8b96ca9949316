// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/format/compression.h"

#include <memory>

#include <zlib.h>
#include <zstd.h>

#include "core/format/findings.h"

namespace qcow2 {

namespace {

// The window of QEMU's writer. Negative: no zlib header.
constexpr int deflate_window_bits = -12;
// More than any cluster can use; an image cannot make us allocate more.
constexpr int zstd_window_bits_max = 24;

Error broken(const char *detail) { return finding(Finding::compressed_data_broken, detail); }

Result<void> inflate_cluster(Bytes bytes, MutableBytes cluster)
{
    z_stream stream{};
    if (inflateInit2(&stream, deflate_window_bits) != Z_OK)
        return Error(Errc::io, "zlib: out of memory");
    const std::unique_ptr<z_stream, int (*)(z_stream *)> end(&stream, inflateEnd);
    stream.next_in = const_cast<Bytef *>(bytes.data());
    stream.avail_in = static_cast<uInt>(bytes.size());
    stream.next_out = cluster.data();
    stream.avail_out = static_cast<uInt>(cluster.size());
    // The end of the stream need not be reached: a full cluster is enough.
    const int result = inflate(&stream, Z_FINISH);
    if (stream.avail_out != 0)
        return broken(stream.msg ? stream.msg : "it ends too early");
    if (result != Z_STREAM_END && result != Z_BUF_ERROR && result != Z_OK)
        return broken(stream.msg ? stream.msg : "deflate");
    return {};
}

Result<void> unzstd_cluster(Bytes bytes, MutableBytes cluster)
{
    const std::unique_ptr<ZSTD_DCtx, std::size_t (*)(ZSTD_DCtx *)> context(ZSTD_createDCtx(),
                                                                           ZSTD_freeDCtx);
    if (!context)
        return Error(Errc::io, "zstd: out of memory");
    ZSTD_DCtx_setParameter(context.get(), ZSTD_d_windowLogMax, zstd_window_bits_max);
    ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
    ZSTD_outBuffer out{cluster.data(), cluster.size(), 0};
    // Several frames may stand one behind the other.
    while (out.pos < out.size) {
        const std::size_t before = in.pos + out.pos;
        const std::size_t result = ZSTD_decompressStream(context.get(), &out, &in);
        if (ZSTD_isError(result))
            return broken(ZSTD_getErrorName(result));
        if (in.pos + out.pos == before)
            return broken("it ends too early");
    }
    return {};
}

}  // namespace

Result<void> decompress(CompressionType type, Bytes bytes, MutableBytes cluster)
{
    return type == CompressionType::zstd ? unzstd_cluster(bytes, cluster)
                                         : inflate_cluster(bytes, cluster);
}

}  // namespace qcow2
