/* Plays the steps of a program: player <program> <results>. The program file holds little-endian int64 numbers:
 *   bytes of memory, steps, then memory itself, then per step: kernel, tiles, eight offsets (-1 for NULL), scratch.
 * The whole memory is written to the results. KERNELS and `kernels` come from the generated table.
 * With a third argument every step is one call, between two of getppid() for an instruction counter to see. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "kernel_table.h"

static int64_t number(FILE *file) {
    int64_t value;
    if (fread(&value, 8, 1, file) != 1) exit(3);
    return value;
}

int main(int argc, char **argv) {
    FILE *file = argc >= 3 ? fopen(argv[1], "rb") : NULL;
    if (!file) return 2;
    int64_t bytes = number(file), steps = number(file);
    uint8_t *memory = aligned_alloc(64, (size_t)bytes);
    if (!memory || fread(memory, 1, (size_t)bytes, file) != (size_t)bytes) return 3;
    for (int64_t n = 0; n < steps; n++) {
        int64_t kernel = number(file), tiles = number(file);
        uint8_t *p[9];
        for (int i = 0; i < 9; i++) {
            int64_t at = number(file);
            p[i] = at < 0 ? NULL : memory + at;
        }
        int32_t grain = argc > 3 ? (int32_t)tiles : 3;
        if (argc > 3) getppid();
        for (int32_t tile = 0; tile < (int32_t)tiles; tile += grain) {
            int32_t end = tile + grain < (int32_t)tiles ? tile + grain : (int32_t)tiles;
            if (kernels[kernel](p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], tile, end)) return 4;
        }
        if (argc > 3) getppid();
    }
    fclose(file);
    file = fopen(argv[2], "wb");
    return !file || fwrite(memory, 1, (size_t)bytes, file) != (size_t)bytes || fclose(file);
}
