// SPDX-FileCopyrightText: 2026 The sparseconv authors
// SPDX-License-Identifier: Apache-2.0
//
// Output sites and pairs of a layer that goes from the fine side to the coarse one, together: whoever merges the sites knows
// the pairs.
//
// Along an axis u = fine + padding = quotient * stride + residue, and tap t reads the residue (t * dilation) % stride of the coarse
// cell quotient - (t * dilation) / stride. So the fine sites fall into classes of equal residues, and each tap maps a class to
// coarse sites by one constant step: an increasing list. The taps along the last axis are joined in one list for each class of the
// other axes (its `cells`, without repetition). A tap of the other axes is then a stream, that list moved by a constant; merging the
// streams gives the sites in order and `ranks`, the site of each entry of each stream. The pairs of a tap are its class's members
// with their ranks.
#pragma once

#include "core/coord_key.h"
#include "core/device.h"
#include "mapping/keys.h"
#include "mapping/relation_classes.h"
#include "mapping/search.h"

namespace sparseconv {

constexpr int64_t kClassChunk = 8192;
constexpr int64_t kStreamChunk = 2048;

// Chunks of fine keys that do not cut a line, the keys that differ in the last axis only.
struct LineChunks {
    const int64_t* keys;  // [n], increasing
    int64_t n;
    int line_bits;

    SPARSECONV_HD int64_t count() const { return Chunks{n, kClassChunk}.count(); }
    SPARSECONV_HD int64_t begin(int64_t c) const {
        const int64_t place = c * kClassChunk < n ? c * kClassChunk : n;
        if (place == 0 || place == n || (keys[place] ^ keys[place - 1]) >> line_bits != 0) return place;
        return lower_bound(keys, place, n, ((keys[place] >> line_bits) + 1) << line_bits);
    }
};

// What classifying leaves for each class. The arrays are address space for the worst case, touched where something is.
struct ClassLists {
    int64_t n;
    int32_t* members;  // [classes, n, 2]: place of the fine key, and the cell of its quotient, counted from its chunk's first;
                       // those of a chunk begin at its first key
    int64_t* cells;    // [uppers, reach * n + 1]: keys of coarse cells, increasing; closed by kNoKey once joined
    int64_t* member_counts;  // [classes, chunks]
    int64_t* cell_counts;    // [uppers, chunks]; once joined, where a chunk's cells begin
    int64_t cell_stride;     // reach * n + 1
};

struct ClassifyKeys {
    StridedLayout layout;
    LineChunks chunks;
    ClassLists lists;

    SPARSECONV_HD void operator()(int64_t c) const {
        bool binary = true;
        for (int a = 0; a < layout.axes; ++a) binary &= layout.log_stride[a] >= 0;
        switch (layout.axes) {
            case 1: return binary ? run<1, true>(c) : run<1, false>(c);
            case 2: return binary ? run<2, true>(c) : run<2, false>(c);
            case 3: return binary ? run<3, true>(c) : run<3, false>(c);
            default: return binary ? run<4, true>(c) : run<4, false>(c);
        }
    }

    template <int Axes, bool Binary>
    SPARSECONV_HD void run(int64_t c) const {
        constexpr int last = Axes - 1;
        const int64_t begin = chunks.begin(c), end = chunks.begin(c + 1);
        const int classes = layout.classes(), uppers = layout.uppers, most_reach = layout.most_reach;
        int32_t* member[kMaxClasses];  // where the next one goes
        int64_t *cell[kMaxClasses], *first_cell[kMaxClasses], newest[kMaxClasses], dummy;
        for (int k = 0; k < classes; ++k) member[k] = lists.members + 2 * (k * lists.n + begin);
        for (int k = 0; k < uppers; ++k) {
            cell[k] = first_cell[k] = lists.cells + k * lists.cell_stride + begin * most_reach;
            newest[k] = -1;
        }
        const KeySplit<Axes> splitter(layout);
        int64_t reaches[kMaxClasses];
        for (int k = 0; k < classes; ++k) reaches[k] = layout.reach[k % layout.residues[last]];
        for (int64_t i = begin; i < end; ++i) {
            int32_t share;
            const int64_t key = splitter.template split<Binary>(chunks.keys[i], &share);
            if (share < 0) continue;
            const int upper = share >> 8, klass = share & 255;
            // The cells of this site end at `key`; those of the sites before it on the line end at `newest` and begin no later.
            const int64_t reach = reaches[klass];
            const int64_t known = newest[upper] > key - reach ? newest[upper] : key - reach;
            int64_t* const top = cell[upper] + (key - known) - 1;
            *top = key;
            for (int j = 1; j < most_reach; ++j) *(j < reach ? top - j : &dummy) = key - j;
            cell[upper] = top + 1;
            newest[upper] = key;
            member[klass][0] = static_cast<int32_t>(i);
            member[klass][1] = static_cast<int32_t>(top - first_cell[upper]);
            member[klass] += 2;
        }
        for (int k = 0; k < classes; ++k) {
            lists.member_counts[k * chunks.count() + c] = (member[k] - lists.members) / 2 - (k * lists.n + begin);
        }
        for (int k = 0; k < uppers; ++k) lists.cell_counts[k * chunks.count() + c] = cell[k] - first_cell[k];
    }
};

// Joins the chunks' cells of one class.
struct JoinCells {
    int most_reach;
    LineChunks chunks;
    ClassLists lists;
    int64_t* cell_totals;  // [uppers]

    SPARSECONV_HD void operator()(int64_t upper) const {
        int64_t* const cells = lists.cells + upper * lists.cell_stride;
        int64_t total = 0;
        for (int64_t c = 0; c < chunks.count(); ++c) {
            const int64_t* const from = cells + chunks.begin(c) * most_reach;
            int64_t& count = lists.cell_counts[upper * chunks.count() + c];
            if (from != cells + total) {
                for (int64_t j = 0; j < count; ++j) cells[total + j] = from[j];
            }
            const int64_t start = total;
            total += count;
            count = start;
        }
        cells[total] = kNoKey;
        cell_totals[upper] = total;
    }
};

// Merges the streams over one range of output keys.
struct MergeStreams {
    StridedLayout layout;
    const int64_t* cells;  // [uppers, cell_stride]
    int64_t cell_stride;
    const int64_t* cell_totals;  // [uppers]
    const int64_t* rank_starts;  // [streams]: where a stream's ranks begin
    int splitter;                // class whose cells part the ranges
    Chunks chunks;               // of that class's cells
    int32_t* ranks;        // [sum of the streams' lengths]: site of each entry, -1 = outside; first counted from the range's own
    int64_t* sites;        // [sum of the streams' lengths]: keys; those of a range begin where its streams' entries do
    int64_t* site_counts;  // [ranges]

    SPARSECONV_HD int64_t limit(int64_t c) const { return cells[splitter * cell_stride + chunks.begin(c)]; }
    SPARSECONV_HD int64_t begin(int64_t c, int s) const {
        if (c == 0) return 0;
        const int64_t total = cell_totals[layout.stream_class[s]];
        if (c == chunks.count()) return total;
        return lower_bound(cells + layout.stream_class[s] * cell_stride, 0, total, limit(c) - layout.stream_step[s]);
    }
    SPARSECONV_HD int64_t first_site(int64_t c) const {
        int64_t first = 0;
        for (int s = 0; s < layout.streams; ++s) first += begin(c, s);
        return first;
    }

    SPARSECONV_HD void operator()(int64_t c) const {
        switch (layout.streams) {
            case 4: return merge<4>(c);
            case 9: return merge<9>(c);
            default: return merge<0>(c);
        }
    }

    template <int Streams>
    SPARSECONV_HD void merge(int64_t c) const {
        constexpr int room = Streams > 0 ? Streams : kMaxStreams;
        const int streams = Streams > 0 ? Streams : layout.streams;
        const int64_t* list[room];
        int32_t* rank[room];
        int64_t head[room], step[room], place[room];
        int32_t dummy = 0;
        for (int s = 0; s < streams; ++s) {
            const int64_t first = begin(c, s);
            list[s] = cells + layout.stream_class[s] * cell_stride + first;
            rank[s] = ranks + rank_starts[s] + first;
            step[s] = layout.stream_step[s];
            head[s] = *list[s] + step[s];
            place[s] = 0;
        }
        const int64_t stop = c + 1 < chunks.count() ? limit(c + 1) : int64_t{1} << kStridedBits;
        int64_t* const out = sites + first_site(c);
        int64_t written = 0;
        const bool clipped = layout.clipped;
        while (true) {
            int64_t smallest = head[0];
            for (int s = 1; s < streams; ++s) smallest = head[s] < smallest ? head[s] : smallest;
            if (smallest >= stop) break;
            const bool kept = !clipped || inside(smallest);
            out[written] = smallest;
            const int32_t site = kept ? static_cast<int32_t>(written) : -1;
            for (int s = 0; s < streams; ++s) {  // no branch: which streams hold the smallest cannot be guessed
                const bool hit = head[s] == smallest;
                *(hit ? rank[s] + place[s] : &dummy) = site;
                place[s] += hit;
                head[s] = list[s][place[s]] + step[s];
            }
            written += kept;
        }
        site_counts[c] = written;
    }

   private:
    SPARSECONV_HD bool inside(int64_t key) const {
        bool all = true;
        for (int a = 0; a < layout.axes; ++a) {
            const int64_t value = layout.keys.unpack(a + 1, key);
            all &= layout.low[a] <= value && value <= layout.high[a];
        }
        return all;
    }
};

// Writes the coordinates of a range's sites and counts its ranks from the first site of all.
struct FinishSites {
    MergeStreams merge;
    const int64_t* starts;  // [ranges]: sites before each
    int32_t* coords;        // [sites, 1 + axes]

    SPARSECONV_HD void operator()(int64_t c) const {
        // Unpacked by the loop that unpacks keys elsewhere, from and to where this range's begin.
        const UnpackKeys unpack{merge.sites + merge.first_site(c), merge.layout.keys, Chunks{merge.site_counts[c], kStreamChunk},
                                coords + starts[c] * merge.layout.keys.fields};
        for (int64_t part = 0; part < unpack.chunks.count(); ++part) unpack(part);
        const int32_t before = static_cast<int32_t>(starts[c]);
        for (int s = 0; s < merge.layout.streams && before > 0; ++s) {
            const int64_t end = merge.rank_starts[s] + merge.begin(c + 1, s);
            for (int64_t r = merge.rank_starts[s] + merge.begin(c, s); r < end; ++r) {
                merge.ranks[r] += merge.ranks[r] >= 0 ? before : 0;
            }
        }
    }
};

// The pairs (fine row, site) of one tap and one chunk of fine keys; counted where sites are clipped, else known.
struct StridedPairs {
    ClassLists lists;
    LineChunks chunks;
    int last_residues;
    const StridedTap* taps;  // [taps]
    const int32_t* ranks;
    const int64_t* rank_starts;  // [streams]
    const int32_t* fine_rows;    // [n], null = identity
    int64_t* counts;             // [taps, chunks]
    const int64_t* starts;       // [taps, chunks]; null while counting
    int32_t* pairs;              // [pairs, 2]

    SPARSECONV_HD void operator()(int64_t task) const {
        const int64_t c = task % chunks.count();
        const StridedTap tap = taps[task / chunks.count()];
        const int32_t* const member = lists.members + 2 * (tap.klass * lists.n + chunks.begin(c));
        const int64_t members = lists.member_counts[tap.klass * chunks.count() + c];
        const int32_t* const rank =
            ranks + rank_starts[tap.stream] - tap.below + lists.cell_counts[tap.klass / last_residues * chunks.count() + c];
        int64_t written = 0;
        if (!starts) {
            for (int64_t j = 0; j < members; ++j) written += rank[member[2 * j + 1]] >= 0;
            counts[task] = written;
            return;
        }
        int32_t* const out = pairs + 2 * starts[task];
        const int64_t room = counts[task];  // an absent pair is written where the next one goes, but never behind the last
        for (int64_t j = 0; j < members && written < room; ++j) {
            const int32_t place = member[2 * j], site = rank[member[2 * j + 1]];
            out[2 * written] = fine_rows ? fine_rows[place] : place;
            out[2 * written + 1] = site;
            written += site >= 0;
        }
    }
};

}  // namespace sparseconv
