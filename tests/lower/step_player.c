/* Plays the steps of a program: player <program> <results>. The program file holds little-endian int64 numbers:
 *   bytes of memory, steps, then memory itself, then per step: kernel, tiles, eight offsets (-1 for NULL), scratch, and
 *   how often it may run together with those since step ..., as long as the byte at ... (-1: always) is not 0.
 * The whole memory is written to the results. KERNELS and `kernels` come from the generated table.
 * With a third argument every step is one call, between two of getppid() for an instruction counter to see. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "kernel_table.h"

#define FIELDS 14

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
    int64_t *rows = malloc((size_t)steps * sizeof(int64_t) * FIELDS), trips = 0;
    for (int64_t n = 0; n < steps * FIELDS; n++) rows[n] = number(file);
    for (int64_t n = 0; n < steps; n++) {
        const int64_t *row = rows + n * FIELDS, *loop = row + 11;
        int64_t kernel = row[0], tiles = row[1];
        uint8_t *p[9];
        for (int i = 0; i < 9; i++) p[i] = row[2 + i] < 0 ? NULL : memory + row[2 + i];
        int32_t grain = argc > 3 ? (int32_t)tiles : 3;
        if (argc > 3) getppid();
        for (int32_t tile = 0; tile < (int32_t)tiles; tile += grain) {
            int32_t end = tile + grain < (int32_t)tiles ? tile + grain : (int32_t)tiles;
            if (kernels[kernel](p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], tile, end)) return 4;
        }
        if (argc > 3) getppid();
        if (loop[0] < 2) continue;
        if (++trips < loop[0] && (loop[2] < 0 || memory[loop[2]])) n = loop[1] - 1;
        else trips = 0;
    }
    fclose(file);
    free(rows);
    file = fopen(argv[2], "wb");
    return !file || fwrite(memory, 1, (size_t)bytes, file) != (size_t)bytes || fclose(file);
}
