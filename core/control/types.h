// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.
//
// The types of our commands and events. Those of commands that QEMU has, too, have
// QEMU's members, as far as we have something to say in them, and QEMU's names.

#pragma once

#include "core/control/type.h"

namespace qcow2::types {

extern const Type string, integer, unsigned_32, boolean, any;
extern const Type nothing;  // an object without members

// Arguments.
extern const Type capabilities_arguments;
extern const Type nodes_arguments;
extern const Type bitmap;  // node and name
extern const Type bitmap_add;
extern const Type bitmap_merge;
extern const Type transaction;
extern const Type resize;
extern const Type snapshot;
extern const Type snapshot_delete;
extern const Type snapshot_revert;
extern const Type backup_begin;
extern const Type backup_end;

// Answers.
extern const Type version_info;
extern const Type command_infos;
extern const Type schema_infos;
extern const Type status_info;
extern const Type name_info;
extern const Type block_infos;
extern const Type block_device_infos;
extern const Type block_export_infos;
extern const Type job_infos;
extern const Type snapshot_info;
extern const Type backup_begun;
extern const Type transaction_done;  // nothing, but for a backup that has begun
extern const Type backup_infos;

// Data of events.
extern const Type image_corrupted;
extern const Type io_error;
extern const Type bitmap_given_up;
extern const Type backup_broken;
extern const Type backup_expired;

}  // namespace qcow2::types
