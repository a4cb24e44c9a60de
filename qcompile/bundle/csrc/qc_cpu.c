/* Does this processor have what the model was compiled for?
 *
 * The runtime is compiled for the base level of its architecture, so that this question is asked before the first
 * instruction that could be illegal. Names are those of targets/features.py.
 */
#define _GNU_SOURCE
#include <string.h>

#include "qc_runtime.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { QC_EAX, QC_EBX, QC_ECX, QC_EDX };
/* Register state that the system must save (XCR0): SSE and AVX; with AVX-512's three parts; with the AMX tiles. */
#define QC_YMM 0x6u
#define QC_ZMM 0xe6u
#define QC_AMX 0x60000u

typedef struct qc_feature {
    const char *name;
    uint32_t leaf, subleaf;
    int reg, bit;
    uint32_t state;
} qc_feature;

static const qc_feature QC_FEATURES[] = {
    {"sse3", 1, 0, QC_ECX, 0, 0},
    {"ssse3", 1, 0, QC_ECX, 9, 0},
    {"sse4_1", 1, 0, QC_ECX, 19, 0},
    {"sse4_2", 1, 0, QC_ECX, 20, 0},
    {"popcnt", 1, 0, QC_ECX, 23, 0},
    {"movbe", 1, 0, QC_ECX, 22, 0},
    {"avx", 1, 0, QC_ECX, 28, QC_YMM},
    {"f16c", 1, 0, QC_ECX, 29, QC_YMM},
    {"fma", 1, 0, QC_ECX, 12, QC_YMM},
    {"avx2", 7, 0, QC_EBX, 5, QC_YMM},
    {"bmi1", 7, 0, QC_EBX, 3, 0},
    {"bmi2", 7, 0, QC_EBX, 8, 0},
    {"lzcnt", 0x80000001u, 0, QC_ECX, 5, 0},
    {"avx512f", 7, 0, QC_EBX, 16, QC_ZMM},
    {"avx512dq", 7, 0, QC_EBX, 17, QC_ZMM},
    {"avx512cd", 7, 0, QC_EBX, 28, QC_ZMM},
    {"avx512bw", 7, 0, QC_EBX, 30, QC_ZMM},
    {"avx512vl", 7, 0, QC_EBX, 31, QC_ZMM},
    {"avx512vnni", 7, 0, QC_ECX, 11, QC_ZMM},
    {"avx512vbmi", 7, 0, QC_ECX, 1, QC_ZMM},
    {"avx512bf16", 7, 1, QC_EAX, 5, QC_ZMM},
    {"avx512fp16", 7, 0, QC_EDX, 23, QC_ZMM},
    {"avxvnni", 7, 1, QC_EAX, 4, QC_YMM},
    {"amx_tile", 7, 0, QC_EDX, 24, QC_AMX},
    {"amx_int8", 7, 0, QC_EDX, 25, QC_AMX},
    {"amx_bf16", 7, 0, QC_EDX, 22, QC_AMX},
};

static uint32_t saved_state(void) {
    uint32_t eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & (1u << 27))) return 0;
    /* xgetbv, as bytes of its own: the base level's assembler need not know it */
    __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(eax), "=d"(edx) : "c"(0));
    return eax;
}

/* Linux gives a process the state of AMX tiles only on request (arch_prctl ARCH_REQ_XCOMP_PERM, 18: tile data). */
static int tiles_granted(void) { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

static int has_feature(const qc_feature *feature) {
    uint32_t regs[4];
    if ((saved_state() & feature->state) != feature->state) return 0;
    if (!__get_cpuid_count(feature->leaf, 0, &regs[QC_EAX], &regs[QC_EBX], &regs[QC_ECX], &regs[QC_EDX])) return 0;
    /* a leaf 7 without subleaf 1 answers with the data of another leaf on some processors */
    if (feature->leaf == 7 && regs[QC_EAX] < feature->subleaf) return 0;
    __cpuid_count(feature->leaf, feature->subleaf, regs[QC_EAX], regs[QC_EBX], regs[QC_ECX], regs[QC_EDX]);
    if (!((regs[feature->reg] >> feature->bit) & 1u)) return 0;
    return feature->state != QC_AMX || tiles_granted();
}

#elif defined(__aarch64__)
#include <sys/auxv.h>

/* Bits of the kernel's hardware capabilities (Linux, arch/arm64/include/uapi/asm/hwcap.h): word 1 is AT_HWCAP. */
typedef struct qc_feature {
    const char *name;
    int word, bit;
} qc_feature;

static const qc_feature QC_FEATURES[] = {
    {"asimd", 1, 1},     {"aes", 1, 3},      {"sha2", 1, 6},     {"crc32", 1, 7},     {"atomics", 1, 8},
    {"fphp", 1, 9},      {"asimdhp", 1, 10}, {"asimdrdm", 1, 12}, {"lrcpc", 1, 15},   {"asimddp", 1, 20},
    {"sve", 1, 22},      {"asimdfhm", 1, 23}, {"sve2", 2, 1},     {"i8mm", 2, 13},     {"bf16", 2, 14},
};

static int has_feature(const qc_feature *feature) {
    unsigned long word = getauxval(feature->word == 1 ? 16 /* AT_HWCAP */ : 26 /* AT_HWCAP2 */);
    return (int)((word >> feature->bit) & 1u);
}

#else
#error "bundles are built for x86_64 and aarch64"
#endif

const char *qci_cpu_lacks(const char *const *features) {
    for (; *features; features++) {
        int found = 0;
        for (size_t i = 0; i < sizeof QC_FEATURES / sizeof QC_FEATURES[0] && !found; i++)
            found = strcmp(QC_FEATURES[i].name, *features) == 0 && has_feature(&QC_FEATURES[i]);
        if (!found) return *features; /* a name we do not know counts as absent */
    }
    return NULL;
}
