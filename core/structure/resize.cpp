// SPDX-License-Identifier: BSD-3-Clause
// Copyright (C) 2026 The qcow2bitmap authors.

#include "core/structure/resize.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/base/range.h"
#include "core/format/findings.h"
#include "core/format/limits.h"
#include "core/structure/count_reader.h"

namespace qcow2 {

Resize::Resize(Image &image, std::uint64_t size)
    : image_(image),
      data_(image.data_store()),
      geometry_(image.geometry()),
      old_size_(image.disk_size()),
      size_(size),
      kept_(std::min(old_size_, size)),
      shown_end_(std::max(kept_, std::min(size, image.backing_size())))
{
    INVARIANT(is_aligned(size, limits::sector));
}

Result<void> Resize::check() const
{
    const std::uint64_t l1_entries_max = limits::l1_bytes_max / 8;
    if (geometry_.l1_entries_for(size_) > l1_entries_max)
        return Error(Errc::invalid, "with clusters of {} bytes a disk has at most {} bytes",
                     geometry_.cluster_size(), l1_entries_max * geometry_.l2_reach());
    // Such snapshots need not say what size they were made of. (QEMU refuses
    // them, too.)
    const Header header = image_.header().header();
    if (header.version < 3 && header.nb_snapshots != 0)
        return Error(Errc::unsupported,
                     "a version 2 image with snapshots cannot be resized; 'qemu-img amend -o "
                     "compat=1.1' makes it version 3");
    return {};
}

Result<void> Resize::prepare(Aside &aside)
{
    TRY(check());
    TRY(prepare_data_file().in("external data file"));
    TRY(load_l1());
    TRY(prepare_tables(aside));
    TRY(prepare_l1(aside));
    return geometry_.data_file ? data_.flush().in("external data file") : Result<void>();
}

// In a data file anything may stand behind the old end; what is added to the
// file reads as zeros.
Result<void> Resize::prepare_data_file()
{
    if (!geometry_.data_file || !grows())
        return {};
    const Range stale{old_size_, std::min(data_.size(), size_)};
    if (data_.size() < size_)
        TRY(data_.grow(size_));
    const bool raw = image_.header().header().autoclear_features & autoclear::raw_external_data;
    return raw && !stale.empty() ? data_.zero(stale.begin, stale.length(), true) : Result<void>();
}

Result<void> Resize::load_l1()
{
    const Header header = image_.header().header();
    l1_offset_ = header.l1_table_offset;
    Buffer raw(std::uint64_t(header.l1_size) * 8);
    TRY(image_.store().read(l1_offset_.value, raw).in("L1 table"));
    for (std::size_t i = 0; i < header.l1_size; ++i)
        old_l1_.push_back(L1Entry(load_be64(&raw[i * 8])));
    l1_ = old_l1_;
    l1_.resize(geometry_.l1_entries_for(kept_));
    l1_.resize(geometry_.l1_entries_for(size_));
    return {};
}

// --- L2 tables.

Result<void> Resize::prepare_tables(Aside &aside)
{
    const std::uint64_t reach = geometry_.l2_reach();
    std::uint64_t index = kept_ / reach;
    if (kept_ % reach != 0) {
        TRY(prepare_boundary(index, aside).in("guest offset {:#x}", kept_));
        ++index;
    }
    const std::uint64_t end = backing_shows() ? div_ceil(shown_end_, reach) : 0;
    if (index >= end)
        return {};
    // They may be many: taken at once, they are counted by one flush.
    const HostRun run = TRY(aside.take(end - index).in("new L2 tables"));
    for (HostCluster at = run.first; index < end; ++index, ++at) {
        L2Table table(geometry_);
        TRY(put_zeros(table, index, aside));
        TRY(image_.store().write(geometry_.offset_of(at).value, table.bytes()));
        l1_[index] = L1Entry::of(geometry_.offset_of(at), true);
    }
    return {};
}

// The table that the end of what is kept goes through. Written anew only if
// something behind that end is not as it should be.
Result<void> Resize::prepare_boundary(std::uint64_t index, Aside &aside)
{
    const L1Entry l1 = l1_[index];
    const L2Table old = TRY(load_table(l1));
    L2Table table = old;
    TRY(drop_behind(table, l1.copied(), aside));
    TRY(put_zeros(table, index, aside));
    if (table == old)
        return {};
    if (!l1.copied())
        TRY(clear_untrue_copied(table));
    l1_[index] = L1Entry::of(TRY(write(table, aside)), true);
    boundary_ = std::move(table);
    return {};
}

Result<L2Table> Resize::load_table(L1Entry l1)
{
    L2Table table(geometry_);
    if (l1.present())
        TRY(image_.store().read(l1.l2_table().value, table.bytes()).in("L2 table"));
    return table;
}

Result<HostOffset> Resize::write(const L2Table &table, Aside &aside)
{
    return aside.write(Buffer(table.bytes().begin(), table.bytes().end())).in("new L2 table");
}

Result<void> Resize::drop_behind(L2Table &table, bool own, Aside &aside)
{
    const GuestCluster last = geometry_.cluster_of(GuestOffset(kept_));
    std::uint64_t index = geometry_.l2_index(last);
    if (geometry_.in_cluster(GuestOffset(kept_)) != 0) {
        const ClusterMapping was = TRY(table.get(index));
        if (geometry_.data_file)
            TRY(check_place_in_data_file(was, geometry_.offset_of(last)));
        const ClusterMapping is = TRY(cut(was, own, aside));
        if (is != was)
            table.set(index, is);
        ++index;
    }
    for (; index < table.entries(); ++index)
        table.set(index, Unallocated());
    return {};
}

// Whole clusters behind the end of what is kept, as far as a backing file
// would show there.
Result<void> Resize::put_zeros(L2Table &table, std::uint64_t index, Aside &aside)
{
    const Range reach = Range::of(index * geometry_.l2_reach(), geometry_.l2_reach());
    const Range clusters{geometry_.clusters_for(std::max(kept_, reach.begin)),
                         geometry_.clusters_for(std::min(shown_end_, reach.end))};
    if (!backing_shows() || clusters.empty())
        return {};
    HostRun zeros;
    if (geometry_.version < 3) {  // has no flag for it
        zeros = TRY(aside.take(clusters.length()));
        TRY(image_.store().zero(geometry_.offset_of(zeros.first).value,
                                zeros.count * geometry_.cluster_size(), false));
    }
    for (std::uint64_t i = 0; i < clusters.length(); ++i)
        table.set(geometry_.l2_index(GuestCluster(clusters.begin + i)),
                  zeros.count == 0 ? ClusterMapping(Zero{})
                                   : Data{geometry_.offset_of(zeros.first + i), true});
    return {};
}

// Under a shared table nobody has kept bit 63 so that it is true (W6).
Result<void> Resize::clear_untrue_copied(L2Table &table)
{
    CountReader counts(image_);
    for (std::uint64_t i = 0; i < table.entries(); ++i) {
        if (!table.copied(i))
            continue;
        const HostRun run = named_clusters(TRY(table.get(i)), geometry_);
        if (run.count != 0 && TRY(counts.of(run.first)) != 1)
            table.clear_copied(i);
    }
    return {};
}

// --- The last cluster. What it has behind the end must not show: zeros are
// written over it where nobody sees it, that is when the disk grows and the
// cluster is ours alone; else the cluster is copied.

Result<ClusterMapping> Resize::cut(const ClusterMapping &was, bool own, Aside &aside)
{
    if (const auto *data = std::get_if<Data>(&was))
        return cut_data(*data, own && data->copied, aside);
    if (const auto *parts = std::get_if<Subclusters>(&was))
        return cut_parts(*parts, own && parts->copied, aside);
    if (std::holds_alternative<Compressed>(was) ||
        (std::holds_alternative<Unallocated>(was) && backing_shows()))
        return ClusterMapping(TRY(write_anew(aside)));
    return was;
}

Result<ClusterMapping> Resize::cut_data(const Data &was, bool own, Aside &aside)
{
    const Range tail{geometry_.in_cluster(GuestOffset(kept_)), geometry_.cluster_size()};
    if (TRY(is_zero(was.host, tail)))
        return ClusterMapping(was);
    if (!may_write_in_place(own))
        return ClusterMapping(TRY(write_anew(aside)));
    TRY(write_in_place(was.host, tail));
    return ClusterMapping(was);
}

Result<ClusterMapping> Resize::cut_parts(const Subclusters &was, bool own, Aside &aside)
{
    const std::uint64_t end = geometry_.in_cluster(GuestOffset(kept_));
    const std::uint64_t part_size = geometry_.part_size();
    const std::uint64_t first_behind = div_ceil(end, part_size);
    const std::uint32_t behind =
        static_cast<std::uint32_t>(std::uint64_t(0xffffffff) << first_behind);
    Subclusters is = was;
    is.allocated &= ~behind;
    is.zero = backing_shows() ? is.zero | behind : is.zero & ~behind;

    // The part that the end goes through.
    const std::uint32_t through = end % part_size == 0 ? 0 : 1u << (first_behind - 1);
    const bool stale =
        (was.allocated & through) && !TRY(is_zero(was.host, {end, first_behind * part_size}));
    const bool shows = (through & ~(was.allocated | was.zero)) && backing_shows();
    if (stale || shows) {
        if (was.has_cluster() && may_write_in_place(own)) {
            TRY(write_in_place(was.host, {align_down(end, part_size), first_behind * part_size}));
        } else {
            const Data data = TRY(write_anew(aside));
            is.host = data.host;
            is.copied = data.copied;
        }
        is.allocated |= through;
    }
    if (was.allocated != 0 && is.allocated == 0) {
        is.host = HostOffset();
        is.copied = false;
    }
    return ClusterMapping(is);
}

// A data file that is to be cut with the disk has no tail.
Result<bool> Resize::is_zero(HostOffset host, Range part)
{
    if (geometry_.data_file && !grows())
        return true;
    Buffer bytes(part.length());
    TRY(data_.read(host.value + part.begin, bytes));
    return all_zero(bytes);
}

// Part of the cluster as the guest is to see it: zeros behind the end.
Result<Buffer> Resize::content(Range part)
{
    const std::uint64_t begin = align_down(kept_, geometry_.cluster_size());
    Buffer bytes(part.length());
    if (begin + part.begin < kept_)
        TRY(image_.read(GuestOffset(begin + part.begin),
                        sub(MutableBytes(bytes), 0, kept_ - begin - part.begin)));
    // The last cluster of a data file ends with the disk.
    if (geometry_.data_file)
        bytes.resize(std::min<std::uint64_t>(bytes.size(), size_ - begin - part.begin));
    return bytes;
}

Result<void> Resize::write_in_place(HostOffset host, Range part)
{
    const HostRun run{geometry_.cluster_of(host), 1};
    if (!geometry_.data_file && image_.metadata().overlaps(run))
        return finding(Finding::data_cluster_is_metadata, "host offset {:#x}", host.value);
    return data_.write(host.value + part.begin, TRY(content(part)));
}

Result<Data> Resize::write_anew(Aside &aside)
{
    Buffer bytes = TRY(content({0, geometry_.cluster_size()}));
    if (!geometry_.data_file)
        return Data{TRY(aside.write(std::move(bytes)).in("copy of the last cluster")), true};
    const HostOffset place(align_down(kept_, geometry_.cluster_size()));
    TRY(data_.write(place.value, bytes));
    return Data{place, true};
}

// --- The L1 table.

Result<void> Resize::prepare_l1(Aside &aside)
{
    const auto clusters = [&](std::size_t entries) { return geometry_.clusters_for(entries * 8); };
    const HostRun old{geometry_.cluster_of(l1_offset_), clusters(old_l1_.size())};
    if (l1_.size() <= old_l1_.size() && std::equal(l1_.begin(), l1_.end(), old_l1_.begin())) {
        // It stays, and gets shorter.
        const std::uint64_t count = clusters(l1_.size());
        aside.replace({old.first + count, old.count - count});
        if (count == 0)
            l1_offset_ = HostOffset();
        return {};
    }
    l1_offset_ = TRY(aside.write(encode_entries<L1Entry>(l1_)).in("new L1 table"));
    aside.replace(old);
    return {};
}

void Resize::apply(HeaderArea &area) const
{
    area.header.size = size_;
    area.header.l1_size = static_cast<std::uint32_t>(l1_.size());
    area.header.l1_table_offset = l1_offset_;
}

// --- After the commit.

void Resize::finish()
{
    for (std::uint64_t i = kept_ / geometry_.l2_reach(); i < old_l1_.size(); ++i) {
        const bool stays = i < l1_.size() && l1_[i] == old_l1_[i];
        if (stays || !old_l1_[i].present())
            continue;
        if (const auto given = give_back_table(i); !given)
            leaked_.say("the clusters of the L2 table at {:#x} may have leaked: {}",
                        old_l1_[i].l2_table().value, given.error().what);
    }
    give_back({});
    if (!geometry_.data_file || grows())
        return;
    if (const auto shortened = data_.shorten(size_); !shortened)
        log_warning("external data file: it is longer than the disk: {}", shortened.error().what);
}

// A table that is gone from the active tree, and what it named, but for what
// the new one names too.
Result<void> Resize::give_back_table(std::uint64_t index)
{
    const L1Entry l1 = TRY(decode_l1_entry(old_l1_[index].raw(), geometry_));
    const L2Table old = TRY(load_table(l1));
    const bool boundary = boundary_ && index == kept_ / geometry_.l2_reach();
    const L2Table kept = boundary ? *boundary_ : L2Table(geometry_);
    for (std::uint64_t i = 0; i < old.entries(); ++i) {
        const auto was = old.get(i);
        const auto is = kept.get(i);
        if (!was) {
            leaked_.say("L2 table at {:#x}: {}", l1.l2_table().value, was.error().what);
            continue;
        }
        const HostRun names = named_clusters(*was, geometry_);
        if (is && names == named_clusters(*is, geometry_))
            continue;
        // Images lie.
        if (image_.metadata().overlaps(names))
            leaked_.say("clusters at {:#x} are not given back: there is metadata",
                        geometry_.offset_of(names.first).value);
        else
            give_back(names);
    }
    image_.allocator().lower({geometry_.cluster_of(l1.l2_table()), 1});
    return {};
}

// Neighbours together; an empty run gives back the last ones.
void Resize::give_back(HostRun run)
{
    if (run.count != 0 && released_.end() == run.first && released_.count != 0) {
        released_.count += run.count;
        return;
    }
    if (released_.count != 0)
        image_.give_back(released_);
    released_ = run;
}

}  // namespace qcow2
