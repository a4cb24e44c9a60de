/* Inside of the runtime: what the generated tables look like, and what its three parts ask of each other. */
#ifndef QC_RUNTIME_H
#define QC_RUNTIME_H

#include "qc_types.h"

#define QC_MAX_ARGS 8
#define QC_ALIGNMENT 64
#define QC_MAX_RANK 16

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
    QC_SPACE_NEXT,  /* what this run makes of it */
    QC_SPACE_EXTENTS
};

/* The tiles that count at smaller sizes: min(segment, ceil(extents[extent] * rows / span) * unit) of each segment;
 * see qcompile/ir/program.py. */
typedef struct qc_live {
    int32_t extent; /* -1: all tiles count */
    int32_t rows;
    int32_t span;
    int32_t unit;
    int32_t segment;
} qc_live;

/* The sizes at which a step is run: extents[extent] >= least. */
typedef struct qc_only {
    int32_t extent; /* -1: all sizes */
    int32_t least;
} qc_only;

typedef struct qc_call {
    qc_kernel kernel;
    int32_t tiles;
    int32_t grain;
    qc_live live;
    qc_only only;
    uint8_t space[QC_MAX_ARGS];
    uint64_t offset[QC_MAX_ARGS]; /* index of the tensor, or bytes */
} qc_call;

/* Calls that run again and again, one such stretch after the other. */
typedef struct qc_loop {
    int32_t first;
    int32_t last;
    int32_t trips;   /* at most */
    uint8_t space;   /* of the condition: zero there ends the loop; QC_SPACE_NONE where all trips run */
    uint64_t offset;
} qc_loop;

/* What a kept tensor holds before the first run. */
typedef struct qc_initial {
    const uint8_t *bytes; /* the whole tensor, or NULL: every byte is ... */
    uint8_t fill;
    uint8_t in_place; /* runs change it where it lies; what was not written yet is never read */
} qc_initial;

/* The length of a growing sequence: a symbol of its own, behind those of qc_info. */
typedef struct qc_length {
    int32_t state; /* kept tensor, int64, that counts the places before a run; -1: nothing grows */
    int32_t symbol; /* of the places that a run adds; -1: always ... */
    int32_t new_places;
    int64_t most;
} qc_length;

/* An extent that follows from symbols: its value for each combination of theirs, that of the last changing fastest.
 * The symbol info->n_symbols is the length of a growing sequence, from 1 on; the next one says whether it goes on. */
#define QC_JOINED 3
typedef struct qc_extent {
    int32_t symbols[QC_JOINED]; /* -1: no more */
    const int32_t *table;
} qc_extent;

/* An open axis of one of the caller's tensors: inputs first, then outputs. */
typedef struct qc_open_axis {
    int32_t tensor;
    int32_t axis;
    int32_t extent;
} qc_open_axis;

typedef struct qc_program {
    const qc_info *info;
    const qc_call *calls; /* info->n_steps of them */
    const uint8_t *weights;
    uint32_t weights_crc; /* CRC-32 as in zlib */
    const qc_initial *initial; /* info->n_states of them */
    qc_length length;
    int32_t n_extents;
    const qc_extent *extents;
    int32_t n_open;
    const qc_open_axis *open;
    uint32_t unit; /* 0, or weights are stored without units of so many bytes that are zero: bits, then the others */
    const qc_call *single; /* what runs where a growing sequence gets one new place, on tensors of just that size */
    const qc_extent *single_extents;
    int32_t n_single; /* 0: `calls` serve that, too */
    int32_t n_single_extents;
    const qc_loop *loops; /* of `calls` */
    int32_t n_loops;
    const int32_t *held;      /* of each symbol: the kept tensor that has its value once a sequence has begun, or -1 */
    const uint8_t *first_run; /* of each input: whether the run that starts a sequence alone reads it */
} qc_program;

/* A kernel call with its pointers resolved, as the pool runs it. */
typedef struct qc_job {
    qc_kernel kernel;
    int32_t tiles;   /* to run, `live` of each segment */
    int32_t grain;
    int32_t live;
    int32_t segment; /* equal to `live` where all tiles are run */
    uint8_t *args[QC_MAX_ARGS];
} qc_job;

typedef struct qc_pool qc_pool;

/* Start threads - 1 workers; NULL if that fails. `scratch` has threads * stride bytes. */
qc_pool *qci_pool_create(int32_t threads, uint8_t *scratch, size_t stride);
int32_t qci_pool_run(qc_pool *pool, const qc_job *job);
void qci_pool_destroy(qc_pool *pool);
int32_t qci_online_cores(void);

/* Return the first of `features` that this processor or its system lacks, or NULL. */
const char *qci_cpu_lacks(const char *const *features);

/* Sizes: the value of each symbol, NULL for the largest; `past`: the length before the run, NULL: unknown; `single`:
 * resolve the extents of `program->single`. */
qc_status qci_sizes_resolve(const qc_program *program, const int64_t sizes[], const int64_t *past, int single,
                           int32_t extents[]);
/* The bytes of a dense tensor of the actual shape. */
size_t qci_sizes_bytes(const qc_tensor *tensor, const int64_t shape[]);
/* The actual shape of a tensor (inputs first, then outputs); returns whether it is smaller than the largest. */
int qci_sizes_shape(const qc_program *program, const int32_t extents[], int32_t tensor, int64_t shape[]);
/* Copy between a dense tensor of the actual shape and memory laid out for the largest. */
void qci_sizes_spread(const qc_tensor *tensor, const int64_t shape[], const uint8_t *dense, uint8_t *wide);
void qci_sizes_gather(const qc_tensor *tensor, const int64_t shape[], const uint8_t *wide, uint8_t *dense);
qc_status qci_model_shape(const qc_program *program, const int64_t sizes[], int32_t tensor, int64_t shape[]);

/* What the exported functions of the generated file call. */
qc_status qci_model_create(const qc_program *program, const qc_options *options, qc_model **model);
qc_status qci_model_run(qc_model *model, const int64_t sizes[], const void *const inputs[], void *const outputs[],
                       uint64_t *nanoseconds);
void qci_model_destroy(qc_model *model);
qc_status qci_model_reset(qc_model *model);
void *qci_model_state(qc_model *model, int32_t index);
qc_status qci_model_verify(const qc_program *program);
const char *qci_model_status_string(qc_status status);

#endif
