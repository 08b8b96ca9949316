// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/support/qemu_made.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "tests/support/image_reader.h"
#include "tests/support/payload.h"
#include "tests/support/qemu_img.h"
#include "tests/support/temporary_folder.h"

namespace qcow2::test {

namespace {

class Folder {
public:
    std::string path(const std::string &name) const { return folder_.path() + "/" + name; }
    void run(const std::string &command) const
    {
        const std::string line =
            "cd '" + folder_.path() + "' && " + command + " >said 2>&1 </dev/null";
        if (std::system(line.c_str()) != 0)
            throw std::runtime_error("failed: " + line);
    }

private:
    const TemporaryFolder folder_;
};

StoreImage load(const std::string &path)
{
    StoreImage image;
    image.size = std::filesystem::file_size(path);
    std::ifstream file(path, std::ios::binary);
    Buffer page(SparseBytes::page_size);
    for (std::uint64_t at = 0; at < image.size; at += page.size()) {
        page.resize(std::min<std::uint64_t>(page.size(), image.size - at));
        if (!file.read(reinterpret_cast<char *>(page.data()),
                       static_cast<std::streamsize>(page.size())))
            throw std::runtime_error("cannot read " + path);
        if (!all_zero(page))
            image.bytes.write(at, page);
    }
    return image;
}

// Some runs of payload.
StoreImage flat(Random &random, std::uint64_t size)
{
    StoreImage image;
    image.size = size;
    for (std::uint64_t runs = random.between(2, 8); runs > 0; --runs) {
        const Range range = random.range(size, 150000, 4096);
        image.bytes.write(range.begin, payload(GuestOffset(range.begin), range.length(), 0));
    }
    return image;
}

// Writes by QEMU, zeros and holes among them, in whole sectors.
std::string qemu_io(Random &random, std::uint64_t size, const std::string &file)
{
    std::string command = "qemu-io -f qcow2 -d unmap";
    for (std::uint64_t count = random.between(1, 10); count > 0; --count) {
        Range range = random.range(size, 60000, 2048);
        range = {align_down(range.begin, 512), align_up(range.end, 512)};
        command += std::string(" -c '") +
                   random.pick<const char *>({"write -P 7", "write -P 9", "write -z", "discard"}) +
                   " " + std::to_string(range.begin) + " " + std::to_string(range.length()) + "'";
    }
    return command + " " + file;
}

// The one file there is.
class OneFile final : public FileOpener {
public:
    explicit OneFile(StoreImage image) : image_(std::move(image)) {}

    Result<NamedFile> open(const std::string &name, const ChainPlace &, bool writable) override
    {
        if (writable)
            return Error(Errc::read_only, "it is a backing file");
        return NamedFile{std::make_unique<ImageView>(image_), "/" + name, "/" + name, name};
    }

private:
    const StoreImage image_;
};

}  // namespace

QemuImage make_by_qemu(Random &random, QemuMade kind)
{
    const Folder folder;
    const std::uint64_t size = 512 * random.between(300, 2000);
    const bool subclusters = kind == QemuMade::subclusters || random.one_in(3);
    std::string options = "cluster_size=" + std::to_string(random.pick<int>({16384, 32768, 65536}));
    options += subclusters ? ",extended_l2=on" : random.one_in(3) ? ",lazy_refcounts=on" : "";
    if (kind == QemuMade::compressed && random.coin())
        options += ",compression_type=zstd";

    QemuImage made{{}, ReferenceDisk(size), nullptr, options};
    const std::string length = std::to_string(size);
    if (kind == QemuMade::compressed) {
        dump(flat(random, size), folder.path("flat"));
        folder.run("qemu-img convert -f raw -O qcow2 -c -o " + options + " flat disk");
        made.text += " compressed";
    } else if (kind == QemuMade::backing) {
        // Sometimes it ends before the disk does.
        StoreImage backing =
            flat(random, random.coin() ? size : 512 * random.between(1, size / 512));
        dump(backing, folder.path("below"));
        folder.run("qemu-img create -f qcow2 -b below -F raw -o " + options + " disk " + length);
        made.text += " backing file of " + std::to_string(backing.size);
        made.files = std::make_unique<OneFile>(std::move(backing));
    } else if (kind == QemuMade::data_file) {
        const char *raw = random.coin() ? ",data_file_raw=on" : "";
        folder.run("qemu-img create -f qcow2 -o data_file=data," + options + raw + " disk " +
                   length);
        made.text += std::string(" data file") + raw;
    } else {
        folder.run("qemu-img create -f qcow2 -o " + options + " disk " + length);
    }
    made.text += " size " + length;
    folder.run(qemu_io(random, size, "disk"));
    if (kind == QemuMade::data_file) {
        const std::uint64_t left = 512 * random.between(1, size / 512);
        std::filesystem::resize_file(folder.path("data"), left);
        made.text += " cut to " + std::to_string(left);
    }
    for (const std::uint32_t bits : {9u, 12u, 16u})
        if (random.coin()) {
            const std::string name = "g" + std::to_string(bits);
            folder.run("qemu-img bitmap --add -g " + std::to_string(1u << bits) + " disk " + name);
            made.reference.add_bitmap(name, bits);
        }
    folder.run("qemu-img convert -f qcow2 -O raw disk flat");
    load(folder.path("flat")).bytes.for_each_page([&](std::uint64_t offset, Bytes page) {
        made.reference.preset(GuestOffset(offset),
                              sub(page, 0, std::min<std::uint64_t>(page.size(), size - offset)));
    });
    made.image = load(folder.path("disk"));
    if (kind == QemuMade::data_file)
        made.data_file = load(folder.path("data"));
    return made;
}

}  // namespace qcow2::test
