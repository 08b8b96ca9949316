// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "filter/named_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "core/base/log.h"
#include "filter/image_lock.h"
#include "filter/local_file.h"
#include "filter/local_store.h"
#include "filter/server_user.h"

namespace qcow2 {

namespace {

// The file itself and its lock.
struct HeldFile {
    explicit HeldFile(std::unique_ptr<LocalFile> held) : file(std::move(held)), lock(*file) {}

    const std::unique_ptr<LocalFile> file;
    ImageLock lock;
};

// And its bytes.
class NamedFileStore final : private HeldFile, public LocalStore {
public:
    NamedFileStore(std::unique_ptr<LocalFile> held, std::uint64_t size)
        : HeldFile(std::move(held)), LocalStore(*file, size)
    {
    }

    Result<void> take_lock(ImageLock::Kind kind) { return lock.take(kind); }
};

// got_to: where something is missing, with all links followed; empty if that is
// not known.
Result<std::string> resolved(const std::string &path, std::string *got_to = nullptr)
{
    char buffer[PATH_MAX] = "";
    if (::realpath(path.c_str(), buffer))
        return std::string(buffer);
    const int cause = errno;
    if (got_to)
        *got_to = buffer;  // glibc fills it if something is missing or closed
    return Error(cause == ENOENT ? Errc::not_found : Errc::io, "{}: {}", shell_word(path),
                 words_for_errno(cause));
}

// As resolved() would call it if it were there.
std::string as_if_there(const std::string &path)
{
    for (std::size_t end = path.size(); end != 0; end = path.rfind('/', end - 1)) {
        if (const auto there = resolved(path.substr(0, end)))
            return std::filesystem::path(*there + path.substr(end)).lexically_normal();
    }
    return std::filesystem::path(path).lexically_normal();
}

// Whether a resolved path lies below a resolved directory; then what follows.
const char *below(const std::string &path, const std::string &directory)
{
    const std::size_t length = directory == "/" ? 0 : directory.size();
    if (path.compare(0, length, directory, 0, length) != 0 || path[length] != '/')
        return nullptr;
    return path.c_str() + length + 1;
}

// The advice can be typed as it stands.
Error not_allowed(const std::string &what)
{
    const std::string directory = what.substr(0, std::max<std::size_t>(what.rfind('/'), 1));
    return Error(Errc::read_only,
                 "{}: the image names this file; qcow2-files={} allows it to be opened",
                 shell_word(what), shell_word(directory));
}

std::string folder_of(const std::string &path) { return path.substr(0, path.rfind('/') + 1); }

// What a name that is not allowed is called. The folder of the image is the user's, and is
// looked at; not so what the image names.
std::string in_words(const std::string &name, const ChainPlace &namer)
{
    if (name[0] == '/')
        return std::filesystem::path(name).lexically_normal();
    const auto folder = resolved(folder_of(namer.path));
    const std::string whole = (folder ? *folder : folder_of(namer.path)) + "/" + name;
    return std::filesystem::path(whole).lexically_normal();
}

// Where a relative name was taken from, if that may surprise: as with QEMU, from the folder of a
// symbolic link that leads to the image, not from that of the image.
Error with_origin(Error error, const std::string &name, const ChainPlace &namer)
{
    std::error_code ignored;
    if (name[0] == '/' || !std::filesystem::is_symlink(namer.path, ignored))
        return error;
    error.what += formatted(
        "; its name, {}, is looked for in the folder of the symbolic link {}, by which the image "
        "was reached",
        quote(name), shell_word(namer.path));
    const auto image = resolved(namer.path);
    if (image && namer.identities.size() <= 1)  // it is the disk itself
        error.what +=
            formatted("; file={} looks for it in the folder of the image", shell_word(*image));
    else if (image)
        error.what += formatted("; the image itself is {}", shell_word(*image));
    return error;
}

}  // namespace

NamedFiles::~NamedFiles()
{
    for (const Directory &directory : directories_)
        ::close(directory.descriptor);
}

Result<void> NamedFiles::allow(const std::string &directory)
{
    const std::string path = TRY(resolved(directory));
    const int descriptor = ::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (descriptor == -1)
        return Error(Errc::invalid, "{}: {}", shell_word(path), words_for_errno(errno));
    directories_.push_back({path, descriptor});
    return {};
}

const NamedFiles::Directory *NamedFiles::directory_of(const std::string &path) const
{
    const auto found = std::ranges::find_if(
        directories_, [&](const Directory &directory) { return below(path, directory.path); });
    return found == directories_.end() ? nullptr : &*found;
}

// Outside it is not told what is there and what is not.
Result<std::string> NamedFiles::resolve(const std::string &path) const
{
    std::string got_to;
    auto there = resolved(path, &got_to);
    if (there)
        return there;
    const std::string meant = as_if_there(path);
    if (!directory_of(got_to.empty() ? meant : got_to + "/"))
        return not_allowed(meant);
    return there;
}

Result<NamedFile> NamedFiles::open(const std::string &name, const ChainPlace &namer, bool writable)
{
    if (name.empty() || name.find('\0') != std::string::npos)
        return Error(Errc::invalid, "the image names a file without a name");
    if (!is_local_path(name))
        return Error(Errc::unsupported,
                     "{}: the image names something that is no path of a local file, which is not "
                     "supported",
                     quote(name));
    if (name[0] != '/') {
        if (namer.path.empty())
            return Error(Errc::invalid, "{}: a relative name, but the image is no local file",
                         quote(name));
        // /proc/self/fd/7, /dev/stdin.
        const auto folder = resolved(folder_of(namer.path));
        if (folder && folder->starts_with("/proc/"))
            return Error(Errc::invalid,
                         "{}: a relative name, but the image was given as a descriptor, which has "
                         "no folder; give its path",
                         quote(name));
    }
    auto file = open_path(name, namer, writable);
    if (!file)
        return with_origin(std::move(file).error(), name, namer);
    return file;
}

Result<NamedFile> NamedFiles::open_path(const std::string &name, const ChainPlace &namer,
                                        bool writable)
{
    // What is not allowed is not even looked for.
    if (directories_.empty())
        return not_allowed(in_words(name, namer));
    const std::string whole = name[0] == '/' ? name : folder_of(namer.path) + name;
    const std::string path = TRY(resolve(whole));
    const Directory *directory = directory_of(path);
    if (!directory)
        return not_allowed(path);

    auto file = TRY(LocalFile::open_beneath(directory->descriptor, below(path, directory->path),
                                            path, writable));
    const std::uint64_t size = TRY(file->length());
    const std::string identity = file->identity();
    // Before it is locked: the chain itself would be in its way.
    if (std::ranges::find(namer.identities, identity) != namer.identities.end())
        return Error(Errc::corrupt,
                     "{}: the chain is a loop: this is the image that names the file, or one above "
                     "it",
                     shell_word(path));
    const bool for_writing = writable && file->writable();
    auto store = std::make_unique<NamedFileStore>(std::move(file), size);
    if (lock_)
        TRY(store->take_lock(for_writing ? ImageLock::Kind::writer : ImageLock::Kind::reader));
    return NamedFile{std::move(store), shell_word(path), whole, identity};
}

}  // namespace qcow2
