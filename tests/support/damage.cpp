// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "tests/support/damage.h"

#include <vector>

#include "core/base/log.h"
#include "core/format/header.h"
#include "core/format/refcount_block.h"
#include "core/format/table_entry.h"
#include "tests/support/must.h"

namespace qcow2::test {

namespace {

class Vandal {
public:
    Vandal(MemoryStore &store, Random &random) : store_(store), random_(random)
    {
        Buffer bytes(sizeof(on_disk::Header));
        must(store_.read(0, bytes));
        header_ = must(decode_header(bytes));
        geometry_ = header_.geometry();
        const std::uint64_t entries =
            header_.refcount_table_clusters * geometry_.cluster_size() / 8;
        for (std::uint64_t i = 0; i < entries; ++i)
            if (word(table() + i * 8) != 0)
                blocks_.push_back(i);
    }

    void counts(bool too_low)
    {
        const std::uint64_t clusters = geometry_.clusters_for(store_.size());
        for (std::uint64_t n = random_.between(1, 12); n-- > 0;) {
            const std::uint64_t index = random_.pick(blocks_);
            const std::uint64_t entries = geometry_.refcount_block_entries();
            if (index * entries >= clusters)
                continue;
            const std::uint64_t in_block =
                random_.below(std::min(entries, clusters - index * entries));
            const std::uint64_t offset = word(table() + index * 8);
            Buffer block(geometry_.cluster_size());
            must(store_.read(offset, block));
            const std::uint64_t now = load_refcount(block, geometry_.refcount_order, in_block);
            const std::uint64_t then =
                too_low && now != 0 && random_.coin()
                    ? random_.below(now)
                    : now + random_.between(now < geometry_.refcount_max(), 3);
            store_refcount(block, geometry_.refcount_order, in_block,
                           std::min(then, geometry_.refcount_max()));
            must(store_.write(offset, block));
            said_ += " cluster " + std::to_string(index * entries + in_block) + ": " +
                     std::to_string(now) + " to " + std::to_string(then) + ";";
        }
    }

    // The tables of the disk alone, some of which a snapshot may name, too.
    void tables()
    {
        for (std::uint64_t i = 0; i < header_.l1_size; ++i) {
            const std::uint64_t at = header_.l1_table_offset.value + i * 8;
            const L1Entry l1(word(at));
            if (!l1.present() || geometry_.refcount_order == 0 || random_.coin())
                continue;
            if (l1.own())
                share(at, 1);
            else
                raise(geometry_.cluster_of(l1.l2_table()).value, 1);
        }
    }

    // Clusters of the guest, and L2 tables, that are ours alone and do not say so.
    void shares()
    {
        for (std::uint64_t i = 0; i < header_.l1_size; ++i) {
            const std::uint64_t at = header_.l1_table_offset.value + i * 8;
            const L1Entry l1(word(at));
            if (!l1.own() || geometry_.refcount_order == 0)
                continue;
            if (random_.coin())
                share(at, 1);
            for (std::uint64_t n = 0; n < geometry_.l2_entries(); ++n) {
                const std::uint64_t entry = l1.l2_table().value + n * 8;
                if ((word(entry) & entry_copied) && !(word(entry) & l2_entry_compressed) &&
                    random_.one_in(4))
                    share(entry, random_.between(1, 2));
            }
        }
    }

    void words()
    {
        // The file as it was, for values that are plausible.
        const std::uint64_t clusters = geometry_.clusters_for(store_.size());
        std::vector<Range> tables = {Range::of(header_.l1_table_offset.value, header_.l1_size * 8)};
        for (std::uint64_t i = 0; i < header_.l1_size; ++i)
            if (const L1Entry l1(word(header_.l1_table_offset.value + i * 8)); l1.present())
                tables.push_back(Range::of(l1.l2_table().value, geometry_.cluster_size()));
        if (header_.nb_snapshots != 0)
            tables.push_back(Range::of(word(header_.snapshots_offset.value), header_.l1_size * 8));
        for (std::uint64_t n = random_.between(1, 4); n-- > 0;) {
            const Range table = random_.pick(tables);
            if (table.empty())
                continue;
            const std::uint64_t at = table.begin + random_.below(table.length() / 8) * 8;
            const std::uint64_t cluster = random_.below(clusters + 4) << header_.cluster_bits;
            switch (random_.below(4)) {
            case 0: put(at, word(at) ^ std::uint64_t(1) << random_.below(64)); break;
            case 1: put(at, cluster | (random_.coin() ? entry_copied : 0)); break;
            case 2: put(at, 0); break;
            default: put(at, random_()); break;
            }
        }
    }

    // At the end of a cluster; all of the header's tables stay.
    void cut()
    {
        const std::uint64_t clusters = geometry_.clusters_for(store_.size());
        const std::uint64_t size = random_.between(clusters / 2, clusters) << header_.cluster_bits;
        if (size >= store_.size() || header_.l1_table_offset.value + header_.l1_size * 8 > size)
            return;
        StoreImage image = store_.image();
        image.bytes.zero(size, image.size - size);
        image.size = size;
        store_.replace(std::move(image));
        said_ += " cut at " + hex(size) + ";";
    }

    void bits()
    {
        if (header_.l1_size == 0)
            return;
        for (std::uint64_t n = random_.between(1, 6); n-- > 0;) {
            const std::uint64_t at =
                header_.l1_table_offset.value + random_.below(header_.l1_size) * 8;
            const L1Entry l1(word(at));
            if (!l1.present())
                continue;
            if (random_.one_in(3)) {
                flip(at);
                continue;
            }
            const std::uint64_t entry =
                l1.l2_table().value + random_.below(geometry_.l2_entries()) * 8;
            if (word(entry) & entry_offset_mask)
                flip(entry);
        }
    }

    void structure()
    {
        const std::uint64_t entry = table() + random_.pick(blocks_) * 8;
        switch (random_.below(5)) {
        case 0: put(entry, 0); break;
        case 1: put(entry, word(entry) | 0x200 >> random_.below(2)); break;
        case 2: put(entry, align_up(store_.size(), geometry_.cluster_size()) << 8); break;
        case 3: put(entry, header_.l1_table_offset.value); break;
        default:
            put(48, align_up(store_.size(), geometry_.cluster_size()) << 8);  // the table itself
            break;
        }
    }

    void set_dirty_bit()
    {
        if (header_.version >= 3)
            must(store_.write(79, Buffer{1}));
    }

    std::string said() const { return said_; }

private:
    std::uint64_t table() const { return header_.refcount_table_offset.value; }
    std::uint64_t word(std::uint64_t offset)
    {
        Buffer bytes(8);
        must(store_.read(offset, bytes));
        return load_be64(bytes.data());
    }
    void put(std::uint64_t offset, std::uint64_t value)
    {
        Buffer bytes(8);
        store_be64(bytes.data(), value);
        must(store_.write(offset, bytes));
        said_ += " " + hex(offset) + " = " + hex(value) + ";";
    }
    void raise(std::uint64_t cluster, std::uint64_t by)
    {
        const std::uint64_t block_at =
            word(table() + (cluster >> geometry_.refcount_block_bits()) * 8);
        const std::uint64_t in_block = cluster & (geometry_.refcount_block_entries() - 1);
        Buffer block(geometry_.cluster_size());
        must(store_.read(block_at, block));
        const std::uint64_t now = load_refcount(block, geometry_.refcount_order, in_block);
        store_refcount(block, geometry_.refcount_order, in_block,
                       std::min(now + by, geometry_.refcount_max()));
        must(store_.write(block_at, block));
    }
    void share(std::uint64_t place, std::uint64_t by)
    {
        raise((word(place) & entry_offset_mask) >> header_.cluster_bits, by);
        flip(place);
    }
    void flip(std::uint64_t offset) { put(offset, word(offset) ^ entry_copied); }

    MemoryStore &store_;
    Random &random_;
    Header header_;
    Geometry geometry_;
    std::vector<std::uint64_t> blocks_;  // those that are there, by index
    std::string said_;
};

}  // namespace

std::string damage(MemoryStore &store, Random &random, Damage kind)
{
    Vandal vandal(store, random);
    if (kind == Damage::tables) {
        vandal.tables();
        return vandal.said();
    }
    if (kind == Damage::shares)
        vandal.shares();
    vandal.counts(kind > Damage::shares);
    if (kind >= Damage::bits)
        vandal.bits();
    if (kind == Damage::structure || (kind > Damage::structure && random.one_in(4)))
        vandal.structure();
    if (kind >= Damage::words) {
        vandal.words();
        if (random.coin())
            vandal.cut();
    }
    if (kind > Damage::shares)
        vandal.set_dirty_bit();
    return vandal.said();
}

}  // namespace qcow2::test
