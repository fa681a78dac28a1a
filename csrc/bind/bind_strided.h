// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Names of the functions that find the sites and the pairs of a strided layer together (mapping/strided.h): classify, merge, write.
// Each gets the same first arguments; between them lie the seams where Python allocates.
#pragma once

#include <optional>
#include <vector>

#include "bind/bind_pairs.h"
#include "mapping/strided.h"

namespace sparseconv {

// Cuts one block of bytes into arrays; every array begins at a multiple of 64 bytes.
struct Carver {
    char* base;
    int64_t used = 0;

    template <class T>
    T* take(int64_t n) {
        T* const array =
            reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(base) + static_cast<uintptr_t>(used));  // base may be null
        used += (n * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
        return array;
    }
};

// What the three functions share: relations [axes, 4], ranges [axes, 2] = outputs kept, clipped = whether that drops any.
struct StridedCall {
    StridedLayout layout;
    LineChunks chunks;
    bool fits;
    int64_t *pair_counts = nullptr, *pair_starts = nullptr;

    StridedCall(Buffer<int64_t> keys, int64_t n, const Integers& layout_numbers, const Integers& relations,
                const Integers& ranges, bool clipped) {
        const KeyLayout key_layout = layout_of(layout_numbers);
        const size_t axes = static_cast<size_t>(key_layout.fields - 1);
        require(axes >= 1 && relations.size() == 4 * axes && ranges.size() == 2 * axes && keys.size() >= n,
                "strided: one relation and one range per axis, and a key per row");
        std::vector<AxisRelation> per_axis;
        for (size_t a = 0; a < axes; ++a) {
            per_axis.push_back({relations[4 * a], relations[4 * a + 1], relations[4 * a + 2], relations[4 * a + 3]});
        }
        fits = make_strided_layout(key_layout, per_axis.data(), ranges.data(), clipped, &layout);
        chunks = LineChunks{keys.data, n, key_layout.bits[axes]};
    }

    // The first block: lists of classes and cells, address space for the worst case.
    ClassLists lists(char* scratch, int64_t** cell_totals, int64_t* bytes) const {
        Carver carver{scratch};
        ClassLists lists;
        const int64_t classes = layout.classes(), uppers = layout.uppers;
        lists.n = chunks.n;
        lists.cell_stride = layout.most_reach * chunks.n + 1;
        lists.member_counts = carver.take<int64_t>(classes * chunks.count());
        lists.cell_counts = carver.take<int64_t>(uppers * chunks.count());
        *cell_totals = carver.take<int64_t>(uppers);
        lists.members = carver.take<int32_t>(2 * classes * chunks.n);
        lists.cells = carver.take<int64_t>(uppers * lists.cell_stride);
        *bytes = carver.used;
        return lists;
    }

    // The second block: ranks and sites of the streams, whose lengths are known then.
    // pair_counts and pair_starts: [taps, chunks].
    MergeStreams merge(const ClassLists& lists, const int64_t* cell_totals, int64_t taps, char* scratch, int64_t* bytes) {
        int splitter = 0;
        for (int u = 1; u < layout.uppers; ++u) splitter = cell_totals[u] > cell_totals[splitter] ? u : splitter;
        const Chunks ranges{cell_totals[splitter], kStreamChunk};
        Carver carver{scratch};
        int64_t* const rank_starts = carver.take<int64_t>(layout.streams);
        int64_t* const site_counts = carver.take<int64_t>(ranges.count());
        pair_counts = carver.take<int64_t>(taps * chunks.count());
        pair_starts = carver.take<int64_t>(taps * chunks.count());
        int64_t entries = 0;
        for (int s = 0; s < layout.streams; ++s) {
            if (scratch) rank_starts[s] = entries;
            entries += cell_totals[layout.stream_class[s]];
        }
        int32_t* const ranks = carver.take<int32_t>(entries);
        int64_t* const sites = carver.take<int64_t>(entries);
        *bytes = carver.used;
        return MergeStreams{layout, lists.cells, lists.cell_stride, cell_totals, rank_starts, splitter, ranges,
                            ranks,  sites,       site_counts};
    }

    // `out` null: counts them.
    StridedPairs pairs(const ClassLists& lists, const MergeStreams& merge, const std::vector<StridedTap>& taps,
                       const int32_t* fine_rows, int32_t* out) const {
        return StridedPairs{lists,     chunks,      layout.residues[layout.axes - 1], taps.data(), merge.ranks, merge.rank_starts,
                            fine_rows, pair_counts, out ? pair_starts : nullptr,      out};
    }
};

inline void require_strided(const StridedCall& call, const Buffer<uint8_t>& scratch, int64_t bytes) {
    require(call.fits, "strided: this geometry is not supported");
    require(scratch.size() >= bytes, "strided: scratch must have " + std::to_string(bytes) + " bytes");
}

// Bytes of the first block; -1 where the geometry has too many classes or streams for these loops.
inline int64_t strided_bytes(Buffer<int64_t> keys, int64_t n, const Integers& layout, const Integers& relations,
                             const Integers& ranges, bool clipped) {
    const StridedCall call(keys, n, layout, relations, ranges, clipped);
    int64_t* totals;
    int64_t bytes;
    if (!call.fits) return -1;
    call.lists(nullptr, &totals, &bytes);
    return bytes;
}

// Fills the first block; returns the bytes of the second.
inline int64_t strided_classify(const Cpu& device, Buffer<int64_t> keys, int64_t n, const Integers& layout,
                                const Integers& relations, const Integers& ranges, bool clipped, Buffer<int32_t> taps,
                                Buffer<uint8_t> scratch) {
    StridedCall call(keys, n, layout, relations, ranges, clipped);
    int64_t *totals, bytes;
    const ClassLists lists = call.lists(reinterpret_cast<char*>(scratch.data), &totals, &bytes);
    require_strided(call, scratch, bytes);
    device.for_each(call.chunks.count(), ClassifyKeys{call.layout, call.chunks, lists});
    device.for_each(call.layout.uppers, JoinCells{call.layout.most_reach, call.chunks, lists, totals});
    call.merge(lists, totals, taps.rows(), nullptr, &bytes);
    return bytes;
}

inline std::vector<StridedTap> strided_taps(const StridedLayout& layout, const Buffer<int32_t>& taps, const Integers& relations) {
    require(taps.ndim == 2 && taps.shape[1] == layout.axes, "taps must be [K, " + std::to_string(layout.axes) + "]");
    std::vector<StridedTap> result;
    for (int64_t t = 0; t < taps.rows(); ++t) {
        const int32_t* const tap = taps.data + t * layout.axes;
        for (int a = 0; a < layout.axes; ++a) {
            require(tap[a] >= 0 && tap[a] < relations[4 * static_cast<size_t>(a)], "taps must lie within the kernel");
        }
        result.push_back(strided_tap(layout, tap, relations.data()));
    }
    return result;
}

// Merges the streams and fills offsets [taps + 1] of the pairs; returns the number of sites.
inline int64_t strided_merge(const Cpu& device, Buffer<int64_t> keys, int64_t n, const Integers& layout,
                             const Integers& relations, const Integers& ranges, bool clipped, Buffer<int32_t> taps,
                             Buffer<uint8_t> scratch, Buffer<uint8_t> more_scratch, Buffer<int64_t> offsets) {
    StridedCall call(keys, n, layout, relations, ranges, clipped);
    int64_t *totals, bytes;
    const ClassLists lists = call.lists(reinterpret_cast<char*>(scratch.data), &totals, &bytes);
    require_strided(call, scratch, bytes);
    call.merge(lists, totals, taps.rows(), nullptr, &bytes);
    require_strided(call, more_scratch, bytes);
    const MergeStreams merge = call.merge(lists, totals, taps.rows(), reinterpret_cast<char*>(more_scratch.data), &bytes);
    device.for_each(merge.chunks.count(), merge);

    const std::vector<StridedTap> tap_list = strided_taps(call.layout, taps, relations);
    const int64_t chunks = call.chunks.count(), n_taps = taps.rows();
    require(offsets.size() == n_taps + 1, "strided_merge: offsets must be [K + 1]");
    if (clipped) device.for_each(n_taps * chunks, call.pairs(lists, merge, tap_list, nullptr, nullptr));
    int64_t total = 0;
    for (int64_t t = 0; t < n_taps; ++t) {
        offsets.data[t] = total;
        for (int64_t c = 0; c < chunks; ++c) {
            int64_t& count = call.pair_counts[t * chunks + c];
            if (!clipped) count = lists.member_counts[tap_list[t].klass * chunks + c];
            call.pair_starts[t * chunks + c] = total;
            total += count;
        }
    }
    offsets.data[n_taps] = total;
    int64_t sites = 0;
    for (int64_t c = 0; c < merge.chunks.count(); ++c) sites += merge.site_counts[c];
    return sites;
}

// Writes coords [sites, 1 + axes] and pairs [P, 2], and uses up the second block.
inline void strided_write(const Cpu& device, Buffer<int64_t> keys, int64_t n, const Integers& layout, const Integers& relations,
                          const Integers& ranges, bool clipped, Buffer<int32_t> taps, Buffer<uint8_t> scratch,
                          Buffer<uint8_t> more_scratch, Buffer<int64_t> offsets, std::optional<Buffer<int32_t>> fine_rows,
                          Buffer<int32_t> coords, Buffer<int32_t> pairs) {
    StridedCall call(keys, n, layout, relations, ranges, clipped);
    int64_t *totals, bytes;
    const ClassLists lists = call.lists(reinterpret_cast<char*>(scratch.data), &totals, &bytes);
    require_strided(call, scratch, bytes);
    const MergeStreams merge = call.merge(lists, totals, taps.rows(), reinterpret_cast<char*>(more_scratch.data), &bytes);
    require_strided(call, more_scratch, bytes);
    Integers sites_before(merge.chunks.count() + 1);
    for (int64_t c = 0; c < merge.chunks.count(); ++c) sites_before[c + 1] = sites_before[c] + merge.site_counts[c];
    require(coords.ndim == 2 && coords.shape[0] == sites_before.back() && coords.shape[1] == call.layout.axes + 1,
            "strided_write: coords must be [sites, 1 + D]");
    require(offsets.size() == taps.rows() + 1 && pairs.size() == 2 * offsets.data[taps.rows()] &&
                (!fine_rows || fine_rows->size() == n),
            "strided_write: pairs must be [P, 2]");
    const std::vector<StridedTap> tap_list = strided_taps(call.layout, taps, relations);
    device.for_each(merge.chunks.count(), FinishSites{merge, sites_before.data(), coords.data});
    device.for_each(taps.rows() * call.chunks.count(),
                    call.pairs(lists, merge, tap_list, fine_rows ? fine_rows->data : nullptr, pairs.data));
}

inline void bind_strided(py::module_& m) {
    const auto release = py::call_guard<py::gil_scoped_release>();
    m.def("strided_bytes", &strided_bytes);
    m.def("strided_classify", &strided_classify, release);
    m.def("strided_merge", &strided_merge, release);
    m.def("strided_write", &strided_write, release);
}

}  // namespace sparseconv
