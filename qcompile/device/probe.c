/* Measures what bounds any program on one core of this processor.
 *
 *   probe L2_BYTES      prints "ghz N", "memory N" and "cache N": clock, and GB/s read from memory and second cache
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Each addition of two registers needs the one before, and takes one cycle on every processor we compile for. */
static double ghz(void) {
    double best = 0;
    for (int repeat = 0; repeat < 15; repeat++) {
        uint64_t x = 1, y = (uint64_t)repeat + 1;
        __asm__ volatile("" : "+r"(y));
        double start = now_s();
        for (int i = 0; i < 400000; i++) {
#define ADD x += y; __asm__ volatile("" : "+r"(x));
            ADD ADD ADD ADD ADD ADD ADD ADD ADD ADD ADD ADD ADD ADD ADD ADD
        }
        double found = 400000 * 16 / (now_s() - start) * 1e-9;
        best = found > best ? found : best;
    }
    return best;
}

typedef uint64_t eight __attribute__((vector_size(64)));

static double read_gbs(size_t bytes, int repeats) {
    eight *data = aligned_alloc(64, bytes);
    if (!data) return 0;
    memset(data, 1, bytes);
    double best = 0;
    size_t count = bytes / sizeof *data;
    for (int outer = 0; outer < 5; outer++) {
        double start = now_s();
        eight a = {0}, b = {0}, c = {0}, d = {0};
        for (int repeat = 0; repeat < repeats; repeat++) {
            for (size_t i = 0; i + 3 < count; i += 4) {
                a += data[i];
                b += data[i + 1];
                c += data[i + 2];
                d += data[i + 3];
            }
            __asm__ volatile("" : "+m"(data[0]));
        }
        volatile uint64_t sink = (a + b + c + d)[0];
        (void)sink;
        double found = (double)bytes * repeats / (now_s() - start) * 1e-9;
        best = found > best ? found : best;
    }
    free(data);
    return best;
}

int main(int argc, char **argv) {
    size_t l2 = argc > 1 ? (size_t)atoll(argv[1]) : 1 << 18;
    l2 = l2 / 2 / 256 * 256 + 256;
    printf("ghz %.4f\nmemory %.4f\ncache %.4f\n", ghz(), read_gbs((size_t)96 << 20, 1),
           read_gbs(l2, (int)(((size_t)64 << 20) / l2) + 1));
    return 0;
}
