// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// Opens an image with the files that it names, and with those that they name in
// turn. An Image knows what it reads from and never opens any file; here it is
// known what a backing file is: another image, or bytes.
//
// One thread, before the image is used.

#pragma once

#include <memory>
#include <optional>

#include "core/image/image.h"

namespace qcow2 {

// Fails if the disk cannot even be read. files: those of the image that was open
// before, which names the same; nullopt: they are opened.
Result<std::unique_ptr<Image>> open_image(ByteStore &store, const ImageOptions &options,
                                          std::optional<ImageFiles> files = {});

}  // namespace qcow2
