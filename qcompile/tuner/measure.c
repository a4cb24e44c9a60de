/* Times kernels that compute the same layer in different ways, in turns, on one thread.
 *
 *   measure DATA ROUNDS TURN_US CACHE_BYTES NUMBER...
 *
 * NUMBER are the candidates to time. The answer is a line "bits N CRC" for each, then a line "round NS..." for
 * each round, nanoseconds of one call in the order given. A round gives every candidate its turn: one call that
 * warms the code, then so many calls as fill the turn. Weights lie in several copies, together larger than
 * CACHE_BYTES, and every call reads another one: in a network, too, they come from far away.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

typedef int32_t kernel_function(uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *,
                                uint8_t *, int32_t, int32_t);
#include "kernel_table.h"

enum { POINTERS = 8, WEIGHTS = 1, OUTPUT = 6, SLACK = 64, MOST_COPIES = 64 };

typedef struct candidate {
    kernel_function *call;
    int64_t tiles, output_bytes;
    uint8_t *args[POINTERS], *scratch, *copies[MOST_COPIES];
    int64_t n_copies, next, calls;
} candidate;

static void stop(const char *why) {
    fprintf(stderr, "%s\n", why);
    exit(1);
}

static void *memory(int64_t bytes) {
    void *found = aligned_alloc(64, (size_t)((bytes + SLACK + 63) / 64 * 64));
    if (!found) stop("out of memory");
    return found;
}

static int64_t number(FILE *file) {
    int64_t value;
    if (fread(&value, sizeof value, 1, file) != 1) stop("the data end early");
    return value;
}

static uint8_t *blob(FILE *file, int64_t *bytes) {
    *bytes = number(file);
    uint8_t *data = memory(*bytes);
    if (fread(data, 1, (size_t)*bytes, file) != (size_t)*bytes) stop("the data end early");
    memset(data + *bytes, 0, SLACK);
    return data;
}

static void read_candidates(FILE *file, candidate *all, int64_t count, uint8_t **blobs, int64_t *sizes, int64_t cache) {
    for (int64_t i = 0; i < count; i++) {
        candidate *c = &all[i];
        c->call = kernels[i];
        c->tiles = number(file);
        c->scratch = memory(number(file));
        c->output_bytes = number(file);
        for (int p = 0; p < POINTERS; p++) {
            int64_t at = number(file);
            c->args[p] = p == OUTPUT ? memory(c->output_bytes) : at < 0 ? NULL : blobs[at];
            if (p != WEIGHTS) continue;
            int64_t wanted = 2 * cache / (sizes[at] + 1) + 1;
            c->n_copies = wanted < MOST_COPIES ? wanted : MOST_COPIES;
            for (int64_t k = 0; k < c->n_copies; k++) c->copies[k] = c->args[WEIGHTS];
        }
    }
}

static void copy_weights(candidate *c, int64_t bytes) {
    for (int64_t k = 1; k < c->n_copies; k++) {
        c->copies[k] = memory(bytes);
        memcpy(c->copies[k], c->args[WEIGHTS], (size_t)(bytes + SLACK));
    }
}

static uint32_t crc32(const uint8_t *data, int64_t bytes) {
    uint32_t crc = ~0u;
    for (int64_t i = 0; i < bytes; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (0xEDB88320u & -(crc & 1));
    }
    return ~crc;
}

static void run(candidate *c) {
    uint8_t **p = c->args;
    c->next = c->next + 1 < c->n_copies ? c->next + 1 : 0;
    if (c->call(p[0], c->copies[c->next], p[2], p[3], p[4], p[5], p[6], p[7], c->scratch, 0, (int32_t)c->tiles))
        stop("a kernel failed");
}

/* Processor time of this thread: other programs' turns on a shared machine are not part of it. */
static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static double turn(candidate *c) {
    run(c);
    int64_t start = now_ns();
    for (int64_t i = 0; i < c->calls; i++) run(c);
    return (double)(now_ns() - start) / (double)c->calls;
}

static void request_tiles(void) {
#if defined(__x86_64__)
    /* Linux hands out AMX tiles on request; where there are none, the kernels do not ask for them either. */
    syscall(158, 0x1023, 18);
#endif
}

int main(int argc, char **argv) {
    FILE *file = argc > 5 ? fopen(argv[1], "rb") : NULL;
    if (!file) stop("usage: measure DATA ROUNDS TURN_US CACHE_BYTES NUMBER...");
    request_tiles();
    int64_t cache = atoll(argv[4]), n_blobs = number(file), n = argc - 5;
    uint8_t **blobs = calloc((size_t)n_blobs + 1, sizeof *blobs);
    int64_t *sizes = calloc((size_t)n_blobs + 1, sizeof *sizes);
    if (!blobs || !sizes) stop("out of memory");
    for (int64_t i = 0; i < n_blobs; i++) blobs[i] = blob(file, &sizes[i]);
    int64_t count = number(file);
    candidate *all = calloc((size_t)count + 1, sizeof *all), **chosen = calloc((size_t)n + 1, sizeof *chosen);
    if (!all || !chosen) stop("out of memory");
    read_candidates(file, all, count, blobs, sizes, cache);
    fclose(file);
    for (int64_t i = 0; i < n; i++) {
        int64_t which = atoll(argv[5 + i]);
        if (which < 0 || which >= count) stop("there is no such candidate");
        candidate *c = chosen[i] = &all[which];
        for (int64_t b = 0; b < n_blobs; b++)
            if (blobs[b] == c->args[WEIGHTS]) copy_weights(c, sizes[b]);
        run(c);
        printf("bits %lld %08x\n", (long long)which, crc32(c->args[OUTPUT], c->output_bytes));
        c->calls = 1;
        double once = turn(c), wanted = atof(argv[3]) * 1e3;
        c->calls = once > 0 && once < wanted ? (int64_t)(wanted / once) + 1 : 1;
        if (c->calls > 100000) c->calls = 100000;
    }
    double *times = calloc((size_t)n, sizeof *times);
    if (!times) stop("out of memory");
    for (int64_t round = 0; round < atoll(argv[2]); round++) {
        for (int64_t i = 0; i < n; i++) times[(i + round) % n] = turn(chosen[(i + round) % n]);
        printf("round");
        for (int64_t i = 0; i < n; i++) printf(" %.1f", times[i]);
        printf("\n");
        fflush(stdout);
    }
    return 0;
}
