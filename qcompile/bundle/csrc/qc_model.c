/* Handles: create, run, destroy. */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "qc_runtime.h"

struct qc_model {
    const qc_program *program;
    uint8_t *memory; /* the arena, slack, the threads' scratch, kept tensors twice, staging of misaligned tensors */
    uint8_t *staging;
    qc_pool *pool;
    atomic_flag busy;
    int32_t threads;
    pid_t process;
    uint8_t **tensors; /* the inputs of a run, then its outputs, aligned */
    uint8_t **states;  /* of each kept tensor two places, which change roles with every run */
    int32_t *extents;  /* of this run; kernels read them */
    int32_t *single;   /* the same for the steps of one new place */
    int one;           /* whether this run takes these */
    int goes_on;       /* whether this run continues a sequence */
    int turn;          /* which of the two is the last run's result */
    const uint8_t *weights;
};

static size_t aligned(size_t bytes) { return (bytes + QC_ALIGNMENT - 1) & ~(size_t)(QC_ALIGNMENT - 1); }

static int is_aligned(const void *pointer) { return ((uintptr_t)pointer & (QC_ALIGNMENT - 1)) == 0; }

/* The next unit of weights that are stored without zeros; NULL for one of zeros. */
static const uint8_t *next_unit(const qc_program *program, size_t i, const uint8_t **stored) {
    if (!(program->weights[i / 8] >> i % 8 & 1)) return NULL;
    const uint8_t *unit = *stored;
    *stored += program->unit;
    return unit;
}

static size_t count_units(const qc_program *program) {
    return (program->info->weights_bytes + program->unit - 1) / program->unit;
}

/* Memory that is cleared already takes the weights. */
static void expand_weights(const qc_program *program, uint8_t *to) {
    size_t count = count_units(program);
    const uint8_t *stored = program->weights + (count + 7) / 8;
    for (size_t i = 0; i < count; i++) {
        const uint8_t *unit = next_unit(program, i, &stored);
        if (unit) memcpy(to + i * program->unit, unit, program->unit);
    }
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static qc_status fail(const qc_options *options, qc_status status, const char *what, const char *detail) {
    if (options && options->abi_version == QC_ABI_VERSION && options->message && options->message_bytes)
        snprintf(options->message, options->message_bytes, "%s%s%s", what, detail ? ": " : "", detail ? detail : "");
    return status;
}

static size_t staging_bytes(const qc_info *info) {
    size_t bytes = 0;
    for (int32_t i = 0; i < info->n_inputs; i++) bytes += aligned(info->inputs[i].bytes);
    for (int32_t i = 0; i < info->n_outputs; i++) bytes += aligned(info->outputs[i].bytes);
    return bytes;
}

/* With as many readable bytes behind each as behind the arena. */
static size_t state_bytes(const qc_program *program) {
    size_t bytes = 0;
    for (int32_t i = 0; i < program->info->n_states; i++)
        bytes += (program->initial[i].in_place ? 1 : 2) * (aligned(program->info->states[i].bytes) + QC_ALIGNMENT);
    return bytes;
}

static void place_states(qc_model *model, const qc_program *program, uint8_t *memory) {
    for (int32_t i = 0; i < 2 * program->info->n_states; i++) {
        if (i % 2 && program->initial[i / 2].in_place) {
            model->states[i] = model->states[i - 1];
            continue;
        }
        model->states[i] = memory;
        memory += aligned(program->info->states[i / 2].bytes) + QC_ALIGNMENT;
    }
}

/* One allocation holds all; what kernels may read is cleared, which also maps its pages before the first run. */
static int allocate(qc_model *model, const qc_info *info, size_t stride) {
    size_t arena = aligned(info->arena_bytes) + QC_ALIGNMENT, scratch = stride * (size_t)model->threads;
    /* kernels may read a little past the weights, too */
    size_t weights = model->program->unit ? aligned(info->weights_bytes) + QC_ALIGNMENT : 0;
    size_t single = aligned(sizeof(int32_t) * ((size_t)model->program->n_single_extents + QC_ALIGNMENT));
    size_t extents = single + aligned(sizeof(int32_t) * ((size_t)model->program->n_extents + QC_ALIGNMENT));
    size_t kept = state_bytes(model->program), touched = arena + scratch + kept + weights + extents;
    void *memory = NULL;
    if (posix_memalign(&memory, QC_ALIGNMENT, touched + staging_bytes(info))) return 0;
    memset(memory, 0, touched);
    model->memory = memory;
    model->staging = model->memory + touched;
    place_states(model, model->program, model->memory + arena + scratch);
    model->weights = model->program->weights;
    if (weights) {
        expand_weights(model->program, model->memory + touched - extents - weights);
        model->weights = model->memory + touched - extents - weights;
    }
    model->extents = (int32_t *)(void *)(model->staging - extents);
    model->single = (int32_t *)(void *)(model->staging - single);
    model->pool = qci_pool_create(model->threads, model->memory + arena, stride);
    return 1;
}

/* Bring the file's weights into the process before the first run, which else takes a fault for every few pages. */
static void map_weights(const qc_program *program) {
    const volatile uint8_t *weights = program->weights;
    if (program->unit) return; /* expanding read them all */
    for (size_t at = 0; at < program->info->weights_bytes; at += 4096) (void)weights[at];
}

qc_status qci_model_create(const qc_program *program, const qc_options *options, qc_model **out) {
    static const qc_options defaults = QC_OPTIONS_INIT;
    const qc_info *info = program->info;
    char text[256];
    if (!out) return fail(options, QC_ERR_ARGUMENT, "model is NULL", NULL);
    *out = NULL;
    if (!options) options = &defaults;
    if (options->abi_version != QC_ABI_VERSION) return QC_ERR_ABI;
    if (options->threads < 0 || options->threads > QC_MAX_THREADS)
        return fail(options, QC_ERR_ARGUMENT, "threads is not within 0 and 64", NULL);
    const char *missing = qci_cpu_lacks(info->features);
    if (missing) {
        snprintf(text, sizeof text, "this processor lacks '%s', which target '%s' needs", missing, info->target);
        return fail(options, QC_ERR_ISA, text, NULL);
    }
    qc_model *model = calloc(1, sizeof *model);
    if (!model) return fail(options, QC_ERR_MEMORY, "out of memory", NULL);
    model->program = program;
    model->process = getpid();
    model->threads = options->threads ? options->threads : qci_online_cores();
    model->tensors = calloc((size_t)info->n_inputs + (size_t)info->n_outputs + 1, sizeof *model->tensors);
    model->states = calloc(2 * (size_t)info->n_states + 1, sizeof *model->states);
    atomic_flag_clear(&model->busy);
    /* scratch of two threads never shares a cache line, nor the pair that x86 fetches together */
    size_t stride = (info->scratch_bytes + QC_ALIGNMENT + 127) & ~(size_t)127;
    if (!model->tensors || !model->states || !allocate(model, info, stride)) {
        qci_model_destroy(model);
        snprintf(text, sizeof text, "%zu bytes of working memory", info->arena_bytes);
        return fail(options, QC_ERR_MEMORY, "cannot allocate", text);
    }
    if (!model->pool) {
        snprintf(text, sizeof text, "%d", (int)model->threads);
        qci_model_destroy(model);
        return fail(options, QC_ERR_THREAD, "cannot start the threads", text);
    }
    map_weights(program);
    qci_model_reset(model);
    *out = model;
    return QC_OK;
}

void qci_model_destroy(qc_model *model) {
    if (!model) return;
    /* a forked child has the memory, but not the threads: they are nobody's to join */
    if (model->threads == 1 || model->process == getpid()) qci_pool_destroy(model->pool);
    free(model->memory);
    free(model->tensors);
    free(model->states);
    free(model);
}

qc_status qci_model_reset(qc_model *model) {
    if (!model) return QC_ERR_ARGUMENT;
    if (atomic_flag_test_and_set(&model->busy)) return QC_ERR_BUSY;
    for (int32_t i = 0; i < model->program->info->n_states; i++) {
        const qc_initial *initial = &model->program->initial[i];
        uint8_t *state = model->states[2 * i + model->turn];
        size_t bytes = model->program->info->states[i].bytes;
        if (initial->in_place) continue; /* nothing of it is read before it is written */
        if (initial->bytes) memcpy(state, initial->bytes, bytes);
        else memset(state, initial->fill, bytes);
    }
    atomic_flag_clear(&model->busy);
    return QC_OK;
}

void *qci_model_state(qc_model *model, int32_t index) {
    if (!model || index < 0 || index >= model->program->info->n_states) return NULL;
    return model->states[2 * index + model->turn];
}

/* Whether the tensors of steps for one new place have just the sizes of this run: all but the caches. */
static int is_exact(const qc_model *model) { return model->one && model->program->info->n_symbols == 1; }

/* A tensor in staging memory, with zeros behind it where kernels expect a larger one. */
static uint8_t *stage(const qc_model *model, const qc_tensor *tensor, const int64_t shape[], int smaller,
                      const void *given, uint8_t *staging) {
    size_t bytes = qci_sizes_bytes(tensor, shape);
    if (smaller && !model->one) {
        qci_sizes_spread(tensor, shape, given, staging);
        return staging;
    }
    if (smaller) memset(staging + bytes, 0, tensor->bytes - bytes);
    return memcpy(staging, given, bytes);
}

/* Point model->tensors at the caller's tensors, or at staging memory where these are not aligned or smaller than the
 * kernels expect. */
static qc_status bind(qc_model *model, const void *const inputs[], void *const outputs[]) {
    const qc_info *info = model->program->info;
    uint8_t *staging = model->staging, **tensor = model->tensors;
    int64_t shape[QC_MAX_RANK];
    for (int32_t i = 0; i < info->n_inputs; i++, tensor++) {
        const qc_tensor *known = &info->inputs[i];
        if (!inputs[i] && !model->program->first_run[i]) return QC_ERR_ARGUMENT;
        if (!inputs[i] && !model->goes_on) return QC_ERR_START;
        /* kernels take one pointer type for all; they do not write through those of inputs */
        *tensor = inputs[i] ? (uint8_t *)(uintptr_t)inputs[i] : staging;
        int smaller = qci_sizes_shape(model->program, model->extents, i, shape) && !is_exact(model);
        int unread = model->goes_on && model->program->first_run[i];
        if (!unread && (smaller || !is_aligned(inputs[i])))
            *tensor = stage(model, known, shape, smaller, inputs[i], staging);
        staging += aligned(known->bytes);
    }
    for (int32_t i = 0; i < info->n_outputs; i++, tensor++) {
        if (!outputs[i]) return QC_ERR_ARGUMENT;
        int smaller = qci_sizes_shape(model->program, model->extents, info->n_inputs + i, shape);
        *tensor = is_aligned(outputs[i]) && (!smaller || is_exact(model)) ? outputs[i] : staging;
        staging += aligned(info->outputs[i].bytes);
    }
    return QC_OK;
}

/* Bring results from staging memory to the caller. */
static void deliver(qc_model *model, void *const outputs[]) {
    const qc_info *info = model->program->info;
    int64_t shape[QC_MAX_RANK];
    for (int32_t i = 0; i < info->n_outputs; i++) {
        const uint8_t *made = model->tensors[info->n_inputs + i];
        if (made == outputs[i]) continue;
        if (qci_sizes_shape(model->program, model->extents, info->n_inputs + i, shape) && !model->one)
            qci_sizes_gather(&info->outputs[i], shape, made, outputs[i]);
        else
            memcpy(outputs[i], made, qci_sizes_bytes(&info->outputs[i], shape));
    }
}

static uint8_t *resolve(const qc_model *model, uint8_t space, uint64_t offset) {
    switch (space) {
    case QC_SPACE_INPUT:
        return model->tensors[offset];
    case QC_SPACE_OUTPUT:
        return model->tensors[(uint64_t)model->program->info->n_inputs + offset];
    case QC_SPACE_ARENA:
        return model->memory + offset;
    case QC_SPACE_WEIGHTS:
        return (uint8_t *)(uintptr_t)(model->weights + offset);
    case QC_SPACE_STATE:
        return model->states[2 * offset + (uint64_t)model->turn];
    case QC_SPACE_NEXT:
        return model->states[2 * offset + (uint64_t)!model->turn];
    case QC_SPACE_EXTENTS:
        return (uint8_t *)(model->one ? model->single : model->extents);
    default:
        return NULL;
    }
}

/* How many tiles of each segment count. */
static int32_t live_tiles(const qc_model *model, const qc_call *call) {
    const qc_live *live = &call->live;
    if (live->extent < 0) return call->tiles;
    int64_t rows = (int64_t)(model->one ? model->single : model->extents)[live->extent] * live->rows;
    int64_t tiles = (rows + live->span - 1) / live->span * live->unit;
    return tiles < live->segment ? (int32_t)tiles : live->segment;
}

/* Return whether the call, if this size needs it, succeeded. */
static int run_step(qc_model *model, const qc_call *call) {
    const qc_only *only = &call->only;
    if (only->extent >= 0 && (model->one ? model->single : model->extents)[only->extent] < only->least) return 1;
    int32_t segment = call->live.extent < 0 ? call->tiles : call->live.segment, live = live_tiles(model, call);
    int32_t tiles = segment ? call->tiles / segment * live : 0;
    qc_job job = {.kernel = call->kernel, .tiles = tiles, .grain = call->grain, .live = live, .segment = segment};
    for (int j = 0; j < QC_MAX_ARGS; j++) job.args[j] = resolve(model, call->space[j], call->offset[j]);
    return !qci_pool_run(model->pool, &job);
}

static qc_status run_steps(qc_model *model, uint64_t *nanoseconds) {
    const qc_program *program = model->program;
    int32_t count = model->one ? program->n_single : program->info->n_steps, trips = 0;
    const qc_loop *loop = program->loops, *end = loop + (model->one ? 0 : program->n_loops);
    if (nanoseconds) memset(nanoseconds, 0, sizeof *nanoseconds * (size_t)program->info->n_steps);
    for (int32_t i = 0; i < count; i++) {
        uint64_t start = nanoseconds ? now_ns() : 0;
        if (!run_step(model, model->one ? &program->single[i] : &program->calls[i])) return QC_ERR_KERNEL;
        if (nanoseconds) nanoseconds[i] += now_ns() - start;
        if (loop == end || i != loop->last) continue;
        const uint8_t *condition = resolve(model, loop->space, loop->offset);
        if (++trips < loop->trips && (!condition || *condition)) {
            i = loop->first - 1;
        } else {
            trips = 0;
            loop++;
        }
    }
    return QC_OK;
}

/* Whether sizes are those that the sequence began with, where it keeps them. */
static int are_held(const qc_model *model, const int64_t sizes[]) {
    const qc_info *info = model->program->info;
    for (int32_t i = 0; model->goes_on && i < info->n_symbols; i++) {
        int32_t held = model->program->held[i];
        if (held < 0) continue;
        const int64_t *kept = (const int64_t *)(void *)model->states[2 * held + model->turn];
        if (*kept != (sizes ? sizes[i] : info->symbols[i].most)) return 0;
    }
    return 1;
}

qc_status qci_model_run(qc_model *model, const int64_t sizes[], const void *const inputs[], void *const outputs[],
                       uint64_t *nanoseconds) {
    if (!model || !inputs || !outputs) return QC_ERR_ARGUMENT;
    if (model->threads > 1 && model->process != getpid()) return QC_ERR_THREAD;
    if (atomic_flag_test_and_set(&model->busy)) return QC_ERR_BUSY;
    int32_t counted = model->program->length.state;
    const int64_t *past = counted < 0 ? NULL : (const int64_t *)(void *)model->states[2 * counted + model->turn];
    model->one = model->program->n_single && sizes && sizes[model->program->length.symbol] == 1;
    model->goes_on = past && *past > 0;
    qc_status status = are_held(model, sizes) ? QC_OK : QC_ERR_ARGUMENT;
    if (status == QC_OK) status = qci_sizes_resolve(model->program, sizes, past, 0, model->extents);
    if (status == QC_OK && model->one) status = qci_sizes_resolve(model->program, sizes, past, 1, model->single);
    if (status == QC_OK) status = bind(model, inputs, outputs);
    if (status == QC_OK) status = run_steps(model, nanoseconds);
    if (status == QC_OK) model->turn = !model->turn;
    if (status == QC_OK) deliver(model, outputs);
    atomic_flag_clear(&model->busy);
    return status;
}

qc_status qci_model_verify(const qc_program *program) {
    uint32_t table[256], crc = 0xffffffffu;
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++) table[i] = (table[i] >> 1) ^ (table[i] & 1 ? 0xedb88320u : 0);
    }
    const uint8_t *stored = program->weights, *unit = NULL;
    if (program->unit) stored += (count_units(program) + 7) / 8;
    for (size_t i = 0; i < program->info->weights_bytes; i++) {
        uint8_t byte = 0;
        if (!program->unit) byte = program->weights[i];
        else {
            if (i % program->unit == 0) unit = next_unit(program, i / program->unit, &stored);
            if (unit) byte = unit[i % program->unit];
        }
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xff];
    }
    return (crc ^ 0xffffffffu) == program->weights_crc ? QC_OK : QC_ERR_CORRUPT;
}

const char *qci_model_status_string(qc_status status) {
    static const char *const texts[] = {
        [QC_OK] = "fine",
        [QC_ERR_ARGUMENT] = "an argument is NULL or out of range",
        [QC_ERR_ABI] = "the caller was compiled against another version of the model's header",
        [QC_ERR_ISA] = "this processor lacks an instruction set that the model was compiled for",
        [QC_ERR_MEMORY] = "the working memory could not be allocated",
        [QC_ERR_THREAD] = "the threads could not be started, or the process was forked after create",
        [QC_ERR_BUSY] = "the handle is running in another thread",
        [QC_ERR_KERNEL] = "a kernel reported a failure",
        [QC_ERR_CORRUPT] = "the embedded weights are damaged",
        [QC_ERR_FULL] = "the sequence would be longer than the model keeps; reset it",
        [QC_ERR_START] = "an input is NULL that the run which starts a sequence reads",
    };
    return (size_t)status < sizeof texts / sizeof texts[0] ? texts[status] : "not a status of this version";
}
