// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/check/lost_names.h"

#include "core/check/sectors.h"
#include "core/check/walk.h"

namespace qcow2 {

namespace {

Result<void> put_table_out_of_reach(ByteStore &store, const ImageWalk &walk, HostOffset table)
{
    const Geometry &geometry = walk.geometry();
    Buffer now(geometry.cluster_size());
    TRY(store.read(table.value, now));
    Buffer then = now;
    for (std::size_t at = 0; at < then.size(); at += geometry.l2_entry_bytes())
        if (const std::uint64_t raw = load_be64(&then[at]); walk.is_lost_l2_entry(raw))
            store_be64(&then[at], put_l2_entry_out_of_reach(raw, geometry));
    TRY(write_differing_sectors(store, table.value, now, then));
    return {};
}

Result<void> put_word_out_of_reach(ByteStore &store, HostOffset at)
{
    Buffer word(8);
    TRY(store.read(at.value, word));
    store_be64(word.data(), put_out_of_reach(load_be64(word.data())));
    return store.write(at.value, word);
}

Result<LostNames> walk_and(ByteStore &store, bool put_out_of_reach)
{
    ImageWalk walk(store);
    TRY(walk.run());
    if (put_out_of_reach && !walk.lost().stays.empty())
        return Error(Errc::corrupt, walk.lost().stays);
    if (put_out_of_reach && walk.lost().count != 0)
        TRY(put_lost_names_out_of_reach(store, walk));
    return LostNames{walk.lost().count, walk.lost().first};
}

}  // namespace

Result<LostNames> find_lost_names(ByteStore &store) { return walk_and(store, false); }

Result<LostNames> put_lost_names_out_of_reach(ByteStore &store) { return walk_and(store, true); }

Result<void> put_lost_names_out_of_reach(ByteStore &store, const ImageWalk &walk)
{
    for (const HostOffset &table : walk.lost().l2_tables)
        TRY(put_table_out_of_reach(store, walk, table).in("L2 table at {:#x}", table.value));
    for (const HostOffset &word : walk.lost().words)
        TRY(put_word_out_of_reach(store, word).in("the name at {:#x}", word.value));
    return store.flush();
}

}  // namespace qcow2
