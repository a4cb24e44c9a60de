/* Makes a processor look like an older one to one process: hides features from CPUID, for every library alike.
 *
 *     QC_HIDE=amx    AMX, AVX512-BF16, AVX512-FP16
 *     QC_HIDE=vnni   also all of AVX-512 and AVX-VNNI, so that AVX2 is left
 *
 * Preloaded. It asks Linux to let CPUID fault (arch_prctl ARCH_CPUID, processors with `cpuid_fault`), executes it
 * in the signal handler and clears bits of the answer. Exits with 77 where that is not possible.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

static int hide_avx512;

/* The three registers of leaf 7 subleaf 0, and EAX of subleaf 1, that name what is hidden. */
static void mask(uint32_t leaf, uint32_t subleaf, uint32_t *eax, uint32_t *ebx, uint32_t *ecx, uint32_t *edx) {
    if (leaf == 7 && subleaf == 0) {
        *edx &= ~(BIT(22) | BIT(23) | BIT(24) | BIT(25)); /* AMX-BF16, AVX512-FP16, AMX-TILE, AMX-INT8 */
        if (hide_avx512) {
            *ebx &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
            *ecx &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14));
            *edx &= ~(BIT(2) | BIT(3) | BIT(8));
        }
    } else if (leaf == 7 && subleaf == 1) {
        *eax &= ~(BIT(5) | BIT(21)); /* AVX512-BF16, AMX-FP16 */
        if (hide_avx512) *eax &= ~BIT(4); /* AVX-VNNI */
    } else if (leaf == 13 && subleaf == 0) {
        *eax &= ~(BIT(17) | BIT(18)); /* the state of tiles */
        if (hide_avx512) *eax &= ~(BIT(5) | BIT(6) | BIT(7));
    }
}

static void on_fault(int signal_number, siginfo_t *info, void *context) {
    greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *code = (const uint8_t *)regs[REG_RIP];
    (void)info;
    if (code[0] != 0x0f || code[1] != 0xa2) { /* a fault of the program's own */
        signal(signal_number, SIG_DFL);
        return;
    }
    uint32_t leaf = (uint32_t)regs[REG_RAX], subleaf = (uint32_t)regs[REG_RCX], eax, ebx, ecx, edx;
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
    __cpuid_count(leaf, subleaf, eax, ebx, ecx, edx);
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
    mask(leaf, subleaf, &eax, &ebx, &ecx, &edx);
    regs[REG_RAX] = eax;
    regs[REG_RBX] = ebx;
    regs[REG_RCX] = ecx;
    regs[REG_RDX] = edx;
    regs[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
    const char *wanted = getenv("QC_HIDE");
    struct sigaction action;
    if (!wanted) return;
    hide_avx512 = strcmp(wanted, "vnni") == 0;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &action, NULL);
    if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) {
        fputs("this processor or kernel cannot hide features (no CPUID faulting)\n", stderr);
        _exit(77);
    }
}
