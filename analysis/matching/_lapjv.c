/* The linear assignment problem for float32 costs, solved exactly: shortest augmenting paths that read few of the costs.

   After R. Jonker and A. Volgenant, A shortest augmenting path algorithm for dense and sparse linear assignment problems
   (Computing 38, 1987): augmenting row reduction, then a shortest path for every row that is still free. The prices of the columns
   are doubles, and only ever fall. Two departures from the paper:
   - every row keeps, for each block of BLOCK columns, a lower bound on cost minus price in it. Since prices fall, an old bound stays
     one, and most blocks are never looked at again;
   - there is no column reduction: columns nobody has asked for keep price 0, so there may be more columns than rows, too.
   Only the C standard library is needed; nothing is global, so threads may call at once. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT
#endif

enum { BLOCK = 16, PASSES = 2, BIDS = 3 }; /* bids: per row and pass of the row reduction; more of them gained nothing */
#define FAR DBL_MAX                         /* in place of infinity, so that -ffinite-math-only is sound */

typedef struct {
    int64_t rows, columns, blocks;
    const float *cost;
    double sign;   /* -1 to maximise */
    double *price; /* of each column, padded to whole blocks */
    float *bound;  /* (rows, blocks) */
    int64_t *assigned, *owner; /* the column of each row, the row of each column; -1: free */
} Problem;

/* Cost minus price of one row in one block of columns, written to `out`; returns the least, and tightens the row's bound. */
static double look(const Problem *p, int64_t row, int64_t block, double out[BLOCK]) {
    const float *cost = p->cost + row * p->columns + block * BLOCK;
    const double *price = p->price + block * BLOCK;
    const int64_t width = p->columns - block * BLOCK;
    double least = FAR;
    if (width >= BLOCK) {
        for (int k = 0; k < BLOCK; k++) out[k] = p->sign * cost[k] - price[k];
    } else {
        for (int k = 0; k < BLOCK; k++) out[k] = k < width ? p->sign * cost[k] - price[k] : FAR;
    }
    for (int k = 0; k < BLOCK; k++) least = out[k] < least ? out[k] : least;
    p->bound[row * p->blocks + block] = (float)(least - fabs(least) * 0x1p-22 - FLT_MIN); /* rounded down for certain */
    return least;
}

/* A free row takes its best column and lowers the price until its second best is as good. Returns the row that it drove out, or -1;
   `is_tie` says that the two best were equal: the loser had better wait, or it might come right back. */
static int64_t bid(const Problem *p, int64_t row, int *is_tie) {
    const float *bound = p->bound + row * p->blocks;
    double value[BLOCK], best = FAR, second = FAR;
    int64_t at = -1, next = -1;
    for (int64_t b = 0; b < p->blocks; b++) {
        if (bound[b] >= second || look(p, row, b, value) >= second) continue;
        for (int k = 0; k < BLOCK; k++) {
            if (value[k] < best) {
                second = best, next = at, best = value[k], at = b * BLOCK + k;
            } else if (value[k] < second) {
                second = value[k], next = b * BLOCK + k;
            }
        }
    }
    *is_tie = next < 0 || best >= second;
    if (!*is_tie) {
        p->price[at] -= second - best;
    } else if (next >= 0 && p->owner[at] >= 0) {
        at = next;
    }
    const int64_t loser = p->owner[at];
    p->assigned[row] = at, p->owner[at] = row;
    if (loser >= 0) p->assigned[loser] = -1;
    return loser;
}

/* Augmenting row reduction; leaves the rows that are still free in `free_rows` and returns their number. A loser bids again at once,
   but not for ever: with ties, or steps below rounding, two rows could drive each other out without end. */
static int64_t reduce_rows(const Problem *p, int64_t *free_rows) {
    int64_t count = p->rows;
    for (int pass = 0; pass < PASSES && count; pass++) {
        const int64_t waiting = count;
        int64_t bids = BIDS * p->rows;
        count = 0;
        for (int64_t k = 0; k < waiting; k++) {
            int64_t row = free_rows[k];
            for (;;) {
                int is_tie;
                row = bid(p, row, &is_tie);
                if (row < 0) break;
                if (is_tie || bids-- <= 0) {
                    free_rows[count++] = row; /* count <= k: each one that waits has used up one that waited */
                    break;
                }
            }
        }
    }
    return count;
}

/* Scratch for shortest paths, all by column but `reached` and `settled`, which list columns. */
typedef struct {
    double *distance, *depth;
    int64_t *from, *reached, *settled;
} Paths;

/* Assign one more row along the shortest path (Dijkstra's) to a column that is free. */
static void augment(const Problem *p, const Paths *s, int64_t source) {
    int64_t row = source, end = -1, reached = 0, settled = 0;
    double value[BLOCK], offset = 0, upper = FAR; /* upper: the shortest way to a free column so far; longer ones do not matter */
    for (;;) {
        const float *bound = p->bound + row * p->blocks;
        for (int64_t b = 0; b < p->blocks; b++) {
            if (bound[b] + offset >= upper || look(p, row, b, value) + offset >= upper) continue;
            for (int k = 0; k < BLOCK; k++) {
                const int64_t column = b * BLOCK + k;
                const double length = value[k] + offset;
                if (length >= upper || length >= s->distance[column]) continue;
                s->from[column] = row;
                if (p->owner[column] < 0) {
                    upper = length, end = column;
                } else {
                    if (s->distance[column] == FAR) s->reached[reached++] = column;
                    s->distance[column] = length;
                }
            }
        }
        double least = upper;
        int64_t nearest = -1;
        for (int64_t k = 0; k < reached;) {
            const double length = s->distance[s->reached[k]];
            if (length >= upper) {
                s->distance[s->reached[k]] = FAR;
                s->reached[k] = s->reached[--reached];
                continue;
            }
            if (length < least) least = length, nearest = k;
            k++;
        }
        if (nearest < 0) break; /* the free column at `end` is the nearest of all */
        const int64_t column = s->reached[nearest];
        s->reached[nearest] = s->reached[--reached];
        s->depth[settled] = least, s->settled[settled++] = column;
        s->distance[column] = -FAR; /* never to be reached again */
        row = p->owner[column];
        offset = least - (p->sign * p->cost[row * p->columns + column] - p->price[column]);
    }
    for (int64_t k = 0; k < settled; k++) {
        p->price[s->settled[k]] += s->depth[k] - upper;
        s->distance[s->settled[k]] = FAR;
    }
    for (int64_t k = 0; k < reached; k++) s->distance[s->reached[k]] = FAR;
    do { /* turn the path round: each row on it takes the next column */
        row = s->from[end];
        p->owner[end] = row;
        const int64_t before = p->assigned[row];
        p->assigned[row] = end, end = before;
    } while (row != source);
}

/* Assign a column to every row. cost: (rows, columns), row-major, finite, below 1e30 in size; rows <= columns.
   Returns 0, or 1 when memory ran out. */
EXPORT int lapjv(int64_t rows, int64_t columns, const float *cost, int maximise, int64_t *assigned) {
    const int64_t blocks = (columns + BLOCK - 1) / BLOCK;
    const size_t padded = (size_t)blocks * BLOCK;
    double *doubles = calloc(3 * padded + 1, sizeof *doubles);
    int64_t *indices = malloc((4 * padded + rows + 1) * sizeof *indices);
    float *bound = malloc(((size_t)rows * blocks + 1) * sizeof *bound);
    if (!doubles || !indices || !bound) {
        free(doubles), free(indices), free(bound);
        return 1;
    }
    const Problem p = {rows, columns, blocks, cost, maximise ? -1.0 : 1.0, doubles, bound, assigned, indices};
    const Paths s = {doubles + padded, doubles + 2 * padded, indices + padded, indices + 2 * padded, indices + 3 * padded};
    int64_t *free_rows = indices + 4 * padded;
    double unused[BLOCK];
    for (size_t j = 0; j < padded; j++) p.owner[j] = -1, s.distance[j] = FAR;
    for (int64_t i = 0; i < rows; i++) {
        assigned[i] = -1, free_rows[i] = i;
        for (int64_t b = 0; b < blocks; b++) look(&p, i, b, unused);
    }
    const int64_t count = reduce_rows(&p, free_rows);
    for (int64_t k = 0; k < count; k++) augment(&p, &s, free_rows[k]);
    free(doubles), free(indices), free(bound);
    return 0;
}
