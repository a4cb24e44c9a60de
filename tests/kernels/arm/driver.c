/* Runs kernels on argument sets read from a file, each buffer in guarded memory.
 *
 *   driver CASES RESULTS
 *
 * CASES: int64 count, then per case: kernel, scratch bytes, output mask, ranges, (begin, end)...,
 * eight sizes (-1: NULL), and the buffers' bytes.  RESULTS: the output buffers' bytes, in order.
 * A buffer starts at a multiple of 64 and at most 127 bytes past its end can be read; a write past
 * its end, or into an input, is an error.  One getppid() call before and one after each case let an
 * instruction counter bracket it.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef int32_t kernel(uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *,
                       uint8_t *, int32_t, int32_t);
#define KERNEL(name) extern kernel name;
#include "kernels.inc"
#undef KERNEL
#define KERNEL(name) name,
static kernel *const kernels[] = {
#include "kernels.inc"
};

enum { POINTERS = 8, PAGE = 65536, CANARY = 0xA5 };

struct memory {
    uint8_t *data, *original;
    size_t size, room, mapped;
    uint8_t *base;
};

static void fail(const char *what, long number) {
    fprintf(stderr, "driver: case %ld: %s\n", number, what);
    exit(1);
}

static int64_t number(FILE *file) {
    int64_t value;
    if (fread(&value, sizeof value, 1, file) != 1) fail("short file", -1);
    return value;
}

static struct memory reserve(size_t size) {
    struct memory m = {.size = size, .room = (size + 63) / 64 * 64 + 64};
    size_t body = (m.room + PAGE - 1) / PAGE * PAGE;
    m.mapped = body + PAGE;
    m.base = mmap(NULL, m.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m.base == MAP_FAILED || mprotect(m.base + body, PAGE, PROT_NONE)) fail("no memory", -1);
    m.data = m.base + body - m.room;
    memset(m.data, CANARY, m.room);
    return m;
}

static void check(const struct memory *m, int output, long at) {
    for (size_t i = m->size; i < m->room; i++)
        if (m->data[i] != CANARY) fail("wrote past the end of a buffer", at);
    if (!output && memcmp(m->data, m->original, m->size)) fail("changed an input", at);
}

static void run_case(FILE *in, FILE *out, long at) {
    kernel *function = kernels[number(in)];
    struct memory scratch = reserve((size_t)number(in));
    int64_t mask = number(in), ranges = number(in);
    int32_t(*range)[2] = malloc(sizeof *range * (size_t)ranges);
    for (int64_t i = 0; i < ranges; i++)
        for (int side = 0; side < 2; side++) range[i][side] = (int32_t)number(in);
    int64_t size[POINTERS];
    struct memory m[POINTERS] = {0};
    uint8_t *p[POINTERS] = {0};
    for (int i = 0; i < POINTERS; i++) size[i] = number(in);
    for (int i = 0; i < POINTERS; i++) {
        if (size[i] < 0) continue;
        m[i] = reserve((size_t)size[i]);
        p[i] = m[i].data;
        if (fread(p[i], 1, m[i].size, in) != m[i].size) fail("short file", at);
        m[i].original = malloc(m[i].size);
        memcpy(m[i].original, p[i], m[i].size);
    }
    getppid();
    for (int64_t i = 0; i < ranges; i++)
        if (function(p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], scratch.data, range[i][0], range[i][1]))
            fail("the kernel returned an error", at);
    getppid();
    check(&scratch, 1, at);
    for (int i = 0; i < POINTERS; i++) {
        if (!p[i]) continue;
        int output = mask >> i & 1;
        check(&m[i], output, at);
        if (output && fwrite(p[i], 1, m[i].size, out) != m[i].size) fail("cannot write results", at);
        free(m[i].original);
        munmap(m[i].base, m[i].mapped);
    }
    munmap(scratch.base, scratch.mapped);
    free(range);
}

int main(int argc, char **argv) {
    if (argc != 3) fail("usage: driver CASES RESULTS", -1);
    FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
    if (!in || !out) fail("cannot open the files", -1);
    int64_t count = number(in);
    for (int64_t i = 0; i < count; i++) run_case(in, out, (long)i);
    return fclose(out) != 0;
}
