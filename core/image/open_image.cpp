// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/open_image.h"

#include <algorithm>
#include <array>

#include "core/base/log.h"
#include "core/format/findings.h"
#include "core/format/header_reader.h"

namespace qcow2 {

namespace {

// An L2 entry for every cluster of 210 GiB at 64K, where to find them, and refcounts.
constexpr std::uint64_t default_cache_bytes = 31 << 20;
constexpr std::uint64_t cache_bytes_min = 256 << 10;

// Each image of a chain takes half of what the one above has, so that the whole
// chain takes twice the first at most.
std::uint64_t backing_share(std::uint64_t cache_bytes)
{
    return std::max(cache_bytes / 2, cache_bytes_min);
}

// With what to do: the file is new, or raw. What is to be typed comes last.
Error not_an_image(const ByteStore &store, Bytes beginning, const std::string &path)
{
    Error error = finding(Finding::not_qcow2).in("header");
    if (all_zero(beginning))
        error.what += "; where there is nothing but zeros qcow2-create=SIZE makes an image";
    if (store.size() != 0)
        error.what += formatted(
            "; if it is a raw disk, this makes an image of it: "
            "qemu-img convert -f raw -O qcow2 {}",
            path.empty() ? "FILE NEW"
                         : formatted("{} {}", shell_word(path), shell_word(path + ".qcow2")));
    return error;
}

Result<Image::Beginning> read_image_header(ByteStore &store, const std::string &path)
{
    Image::Beginning beginning;
    beginning.bytes = TRY(read_beginning(store).in("header"));
    if (!has_magic(beginning.bytes))
        return not_an_image(store, beginning.bytes, path);
    beginning.area = TRY(read_header_area(store, beginning.bytes).in("header"));
    return beginning;
}

// A file whose bytes are the disk's.
class RawBacking final : public Backing {
public:
    explicit RawBacking(NamedFile file) : file_(std::move(file)) {}

    std::uint64_t size() const override { return file_.store->size(); }
    Result<void> read(std::uint64_t offset, MutableBytes bytes) override
    {
        return file_.store->read(offset, bytes).in("backing file {}", file_.path);
    }
    Result<Extent> status(std::uint64_t offset, std::uint64_t length_max) override
    {
        const ByteStore::Stretch stretch = file_.store->stretch(offset, length_max);
        return Extent{stretch.length, stretch.hole, stretch.hole};
    }

private:
    NamedFile file_;
};

class ImageBacking final : public Backing {
public:
    ImageBacking(NamedFile file, std::unique_ptr<Image> image)
        : file_(std::move(file)), image_(std::move(image))
    {
    }

    std::uint64_t size() const override { return image_->disk_size(); }
    Result<void> read(std::uint64_t offset, MutableBytes bytes) override
    {
        return image_->read(GuestOffset(offset), bytes).in("backing file {}", file_.path);
    }
    Result<Extent> status(std::uint64_t offset, std::uint64_t length_max) override
    {
        return image_->status(offset, length_max).in("backing file {}", file_.path);
    }

private:
    NamedFile file_;  // outlives the image
    std::unique_ptr<Image> image_;
};

// The command that gives an image another name or format of its backing file, and reads neither.
std::string rebase_command(const std::string &name, const std::string &format,
                           const ChainPlace &place)
{
    return formatted("qemu-img rebase -u -f qcow2 -b {} -F {} {}", shell_word(name), format,
                     place.path.empty() ? "IMAGE" : shell_word(place.path));
}

Error not_local(const std::string &name, const ChainPlace &place)
{
    constexpr std::string_view file_protocol = "file:";
    const std::string what = formatted(
        "backing file {}: the image names something that is no path of a local file, which "
        "is not supported; ",
        quote(name));
    if (!name.starts_with(file_protocol))
        return Error(Errc::unsupported,
                     "{}if the same is a local file, too, this sets its path: {}", what,
                     rebase_command("PATH", "FORMAT", place));
    std::string path = name.substr(file_protocol.size());
    if (!is_local_path(path))
        path = "./" + path;
    return Error(Errc::unsupported, "{}this sets the path alone (-F raw if it is raw): {}", what,
                 rebase_command(path, "qcow2", place));
}

Result<std::string> format_of(const HeaderArea &area, const ChainPlace &place)
{
    const std::string &name = area.backing_file_name;
    const Extension *extension = area.find(ExtensionType::backing_format);
    // Never probed: a guest can write a qcow2 header into a raw base.
    if (!extension)
        return Error(Errc::unsupported,
                     "the image does not say the format of its backing file {}; "
                     "this sets it (-F raw if it is raw): {}",
                     quote(name), rebase_command(name, "qcow2", place));
    const std::string format(extension->data.begin(), extension->data.end());
    if (format != "raw" && format != "qcow2")
        return Error(Errc::unsupported, "backing file {}: format {} is neither raw nor qcow2",
                     quote(name), quote(format));
    return format;
}

// The image that names a raw file may be wrong about its format.
Result<void> check_magic(const NamedFile &file, const std::string &name, const ChainPlace &place)
{
    std::array<std::uint8_t, 4> magic{};
    const auto length = std::min<std::uint64_t>(magic.size(), file.store->size());
    TRY(file.store->read(0, sub(MutableBytes(magic), 0, length)));
    if (has_magic(magic))
        return {};
    Error error = finding(Finding::not_qcow2).in("header");
    error.what +=
        formatted("; the image that names it says that it is one; this says that it is raw, "
                  "if it is: {}",
                  rebase_command(name, "raw", place));
    return error;
}

// nullptr: the header area names nothing. cache_bytes: for a qcow2 image there, and for
// what is below that one.
Result<std::unique_ptr<Backing>> open_backing(const HeaderArea &area, const ChainPlace &place,
                                              std::uint64_t cache_bytes)
{
    const std::string &name = area.backing_file_name;
    if (area.header.backing_file_offset == 0 || name.empty())
        return std::unique_ptr<Backing>();
    if (!is_local_path(name))
        return not_local(name, place);
    const std::string format = TRY(format_of(area, place));
    if (!place.opener)
        return finding(Finding::backing_file, quote(name));
    if (place.identities.size() >= ChainPlace::depth_max)
        return Error(Errc::unsupported, "backing file {}: the chain has more than {} files",
                     quote(name), ChainPlace::depth_max);

    NamedFile file = TRY(place.opener->open(name, place, false));
    ChainPlace below = place;
    below.path = file.named;
    below.identities.push_back(file.identity);
    if (format == "raw")
        return std::unique_ptr<Backing>(new RawBacking(std::move(file)));
    TRY(check_magic(file, name, place).in("backing file {}", file.path));
    ImageOptions options{cache_bytes, std::move(below), true, false, {}};
    auto image = TRY(open_image(*file.store, options).in("backing file {}", file.path));
    return std::unique_ptr<Backing>(new ImageBacking(std::move(file), std::move(image)));
}

Result<std::optional<NamedFile>> open_data_file(const HeaderArea &area, const ImageOptions &options)
{
    if (!area.header.geometry().data_file)
        return std::optional<NamedFile>();
    const Extension *extension = area.find(ExtensionType::data_file);
    if (!extension || extension->data.empty())
        return finding(Finding::data_file_name_missing);
    const std::string name(extension->data.begin(), extension->data.end());
    if (!options.place.opener)
        return finding(Finding::external_data_file, quote(name));
    auto file = options.place.opener->open(name, options.place, !options.read_only);
    return std::optional<NamedFile>(TRY(std::move(file).in("external data file")));
}

}  // namespace

bool is_local_path(std::string_view name)
{
    const std::size_t colon = name.find(':');
    return colon == name.npos || name.find('/') < colon;
}

Result<std::unique_ptr<Image>> open_image(ByteStore &store, const ImageOptions &options,
                                          std::optional<ImageFiles> files)
{
    Image::Beginning beginning = TRY(read_image_header(store, options.place.path));
    if (auto error = unsupported_feature(beginning.area.header))
        return *std::move(error);
    ImageOptions its_own = options;
    its_own.cache_bytes = std::max(
        options.cache_bytes == 0 ? default_cache_bytes : options.cache_bytes, cache_bytes_min);
    if (!files) {
        files.emplace();
        files->backing =
            TRY(open_backing(beginning.area, options.place, backing_share(its_own.cache_bytes)));
        files->data_file = TRY(open_data_file(beginning.area, options));
    }
    return Image::open(store, std::move(beginning), *std::move(files), its_own);
}

}  // namespace qcow2
