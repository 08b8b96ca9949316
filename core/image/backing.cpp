// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/image/backing.h"

#include "core/image/image.h"

namespace qcow2 {

namespace {

// A file whose bytes are the disk's.
class RawBacking final : public Backing {
public:
    explicit RawBacking(NamedFile file) : file_(std::move(file)) {}

    std::uint64_t size() const override { return file_.store->size(); }
    Result<void> read(std::uint64_t offset, MutableBytes bytes) override
    {
        return file_.store->read(offset, bytes).in("backing file " + file_.path);
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
        return image_->read(GuestOffset(offset), bytes).in("backing file " + file_.path);
    }
    Result<Extent> status(std::uint64_t offset, std::uint64_t length_max) override
    {
        return image_->status(offset, length_max).in("backing file " + file_.path);
    }

private:
    NamedFile file_;  // outlives the image
    std::unique_ptr<Image> image_;
};

Result<std::string> format_of(const HeaderArea &area)
{
    const Extension *format = area.find(ExtensionType::backing_format);
    // Never probed: a guest can write a qcow2 header into a raw base.
    if (!format)
        return Error(Errc::unsupported,
                     "the image does not say the format of its backing file '" +
                         area.backing_file_name + "'; 'qemu-img rebase -u -b " +
                         area.backing_file_name + " -F FORMAT' sets it");
    return std::string(format->data.begin(), format->data.end());
}

}  // namespace

Result<std::unique_ptr<Backing>> open_backing(const HeaderArea &area, const ChainPlace &place,
                                              std::uint64_t cache_bytes)
{
    const std::string &name = area.backing_file_name;
    if (area.header.backing_file_offset == 0 || name.empty())
        return std::unique_ptr<Backing>();
    const std::string format = TRY(format_of(area));
    if (format != "raw" && format != "qcow2")
        return Error(Errc::unsupported, "backing file '" + name + "': format '" + format +
                                            "' is neither raw nor qcow2");
    if (!place.opener)
        return finding(Finding::backing_file, "'" + name + "'");
    if (place.identities.size() >= ChainPlace::depth_max)
        return Error(Errc::unsupported, "backing file '" + name + "': the chain has more than " +
                                            std::to_string(ChainPlace::depth_max) + " files");

    NamedFile file = TRY(place.opener->open(name, place, false));
    ChainPlace below = place;
    below.path = file.named;
    below.identities.push_back(file.identity);
    if (format == "raw")
        return std::unique_ptr<Backing>(new RawBacking(std::move(file)));
    ImageOptions options{cache_bytes, std::move(below), true, false, {}};
    auto image = TRY(Image::open(*file.store, options).in("backing file " + file.path));
    return std::unique_ptr<Backing>(new ImageBacking(std::move(file), std::move(image)));
}

}  // namespace qcow2
