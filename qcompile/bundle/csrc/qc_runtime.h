/* Inside of the runtime: what the generated tables look like, and what its three parts ask of each other. */
#ifndef QC_RUNTIME_H
#define QC_RUNTIME_H

#include "qc_types.h"

#define QC_MAX_ARGS 8
#define QC_ALIGNMENT 64

/* Every kernel has this one type; see qcompile/ir/program.py for what it may rely on. */
typedef int32_t (*qc_kernel)(uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *,
                             uint8_t *scratch, int32_t begin, int32_t end);

enum {
    QC_SPACE_NONE,
    QC_SPACE_INPUT,
    QC_SPACE_OUTPUT,
    QC_SPACE_ARENA,
    QC_SPACE_WEIGHTS,
    QC_SPACE_STATE, /* a kept tensor as the last run left it */
    QC_SPACE_NEXT   /* what this run makes of it */
};

typedef struct qc_call {
    qc_kernel kernel;
    int32_t tiles;
    int32_t grain;
    uint8_t space[QC_MAX_ARGS];
    uint64_t offset[QC_MAX_ARGS]; /* index of the tensor, or bytes */
} qc_call;

/* What a kept tensor holds before the first run. */
typedef struct qc_initial {
    const uint8_t *bytes; /* the whole tensor, or NULL: every byte is ... */
    uint8_t fill;
} qc_initial;

typedef struct qc_program {
    const qc_info *info;
    const qc_call *calls; /* info->n_steps of them */
    const uint8_t *weights;
    uint32_t weights_crc; /* CRC-32 as in zlib */
    const qc_initial *initial; /* info->n_states of them */
    uint32_t unit; /* 0, or weights are stored without units of so many bytes that are zero: bits, then the others */
} qc_program;

/* A kernel call with its pointers resolved, as the pool runs it. */
typedef struct qc_job {
    qc_kernel kernel;
    int32_t tiles;
    int32_t grain;
    uint8_t *args[QC_MAX_ARGS];
} qc_job;

typedef struct qc_pool qc_pool;

/* Start threads - 1 workers; NULL if that fails. `scratch` has threads * stride bytes. */
qc_pool *qc_pool_create(int32_t threads, uint8_t *scratch, size_t stride);
int32_t qc_pool_run(qc_pool *pool, const qc_job *job);
void qc_pool_destroy(qc_pool *pool);
int32_t qc_online_cores(void);

/* Return the first of `features` that this processor or its system lacks, or NULL. */
const char *qc_cpu_lacks(const char *const *features);

/* What the exported functions of the generated file call. */
qc_status qc_model_create(const qc_program *program, const qc_options *options, qc_model **model);
qc_status qc_model_run(qc_model *model, const void *const inputs[], void *const outputs[], uint64_t *nanoseconds);
void qc_model_destroy(qc_model *model);
qc_status qc_model_reset(qc_model *model);
void *qc_model_state(qc_model *model, int32_t index);
qc_status qc_model_verify(const qc_program *program);
const char *qc_model_status_string(qc_status status);

#endif
