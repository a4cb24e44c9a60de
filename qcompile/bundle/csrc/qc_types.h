#ifndef QC_TYPES_1
#define QC_TYPES_1
/* The types of version 1 of the interface; the same text in the header of every model. */

#include <stddef.h>
#include <stdint.h>

#define QC_ABI_VERSION 1
#define QC_MAX_THREADS 64

typedef enum qc_status {
    QC_OK = 0,
    QC_ERR_ARGUMENT = 1, /* a pointer is NULL, or a number is out of range */
    QC_ERR_ABI = 2,      /* the caller was compiled against another version of this header */
    QC_ERR_ISA = 3,      /* this processor lacks an instruction set that the model was compiled for */
    QC_ERR_MEMORY = 4,   /* the working memory could not be allocated */
    QC_ERR_THREAD = 5,   /* the threads could not be started, or the process was forked after create */
    QC_ERR_BUSY = 6,     /* the handle is running in another thread */
    QC_ERR_KERNEL = 7,   /* a kernel reported a failure */
    QC_ERR_CORRUPT = 8,  /* the embedded weights are not the ones that were written */
    QC_ERR_FULL = 9,     /* a growing sequence would be longer than the model keeps: reset it */
    QC_ERR_START = 10    /* an input is NULL that the run which starts a sequence reads */
} qc_status;

typedef enum qc_dtype {
    QC_FLOAT32 = 1,
    QC_FLOAT64 = 2,
    QC_FLOAT16 = 3,
    QC_INT8 = 4,
    QC_UINT8 = 5,
    QC_INT16 = 6,
    QC_UINT16 = 7,
    QC_INT32 = 8,
    QC_UINT32 = 9,
    QC_INT64 = 10,
    QC_UINT64 = 11,
    QC_BOOL = 12
} qc_dtype;

/* An input or an output: dense, row-major, in the ONNX model's order of axes. */
typedef struct qc_tensor {
    const char *name;
    qc_dtype dtype;
    int32_t rank;
    const int64_t *shape; /* rank extents */
    size_t bytes;         /* size of the whole tensor */
    int32_t quantized;    /* 1: real = scale * (q - zero_point); 0: the elements are the values */
    float scale;
    int32_t zero_point;
} qc_tensor;

/* An open extent: which sizes the model takes. The shapes of tensors are those of the largest. */
typedef struct qc_symbol {
    const char *name;
    int64_t least;
    int64_t most;
    int64_t step; /* least, least + step, ... */
} qc_symbol;

/* One step of the model, for profiles. */
typedef struct qc_step {
    const char *node;      /* the ONNX node it came from */
    const char *op;        /* what it computes */
    const char *precision; /* "int8", "float32", ... */
    int64_t macs;          /* multiply-accumulates */
    int64_t bytes;         /* memory read and written */
} qc_step;

typedef struct qc_info {
    uint32_t abi_version;
    int32_t n_inputs;
    int32_t n_outputs;
    int32_t n_steps;
    const qc_tensor *inputs;
    const qc_tensor *outputs;
    const qc_step *steps;
    const char *name;            /* the model */
    const char *target;          /* the machine it was compiled for */
    const char *const *features; /* what it asks of the processor; ends with NULL */
    size_t arena_bytes;          /* working memory of one handle */
    size_t scratch_bytes;        /* and of each of its threads */
    size_t weights_bytes;
    int32_t n_states;
    const qc_tensor *states; /* kept from one run to the next; no input and no output */
    int32_t n_symbols;
    const qc_symbol *symbols;
} qc_info;

typedef struct qc_options {
    uint32_t abi_version; /* QC_ABI_VERSION */
    int32_t threads;      /* 1 to QC_MAX_THREADS; 0: one for each core this process may use */
    char *message;        /* where a create that fails says why (NULL: nowhere) ... */
    size_t message_bytes; /* ... and how much fits there, with the final NUL */
} qc_options;

#define QC_OPTIONS_INIT {QC_ABI_VERSION, 1, NULL, 0}

typedef struct qc_model qc_model;
#endif
