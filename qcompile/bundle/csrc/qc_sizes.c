/* Open extents: from the caller's sizes to extents, and tensors of the actual shape to and from those of the largest. */
#include <string.h>

#include "qc_runtime.h"

/* The length of the growing sequence after the run, or 0 where it does not fit. */
static int64_t length_after(const qc_program *program, const int64_t sizes[], const int64_t *past) {
    const qc_length *length = &program->length;
    if (!past) return length->most;
    int64_t added = length->new_places;
    if (length->symbol >= 0) added = sizes ? sizes[length->symbol] : program->info->symbols[length->symbol].most;
    return *past < 0 || *past > length->most - added ? 0 : *past + added;
}

/* Where the table of an extent has what holds for these sizes. */
static int64_t place_in(const qc_program *program, const qc_extent *extent, const int64_t sizes[], const int64_t *past,
                        int64_t length) {
    const qc_info *info = program->info;
    int64_t place = 0;
    for (int32_t k = 0; k < QC_JOINED && extent->symbols[k] >= 0; k++) {
        int32_t number = extent->symbols[k];
        if (number == info->n_symbols) {
            place = place * program->length.most + length - 1;
        } else if (number > info->n_symbols) {
            place = place * 2 + (past && *past > 0);
        } else {
            const qc_symbol *symbol = &info->symbols[number];
            int64_t size = sizes ? sizes[number] : symbol->most;
            int64_t values = (symbol->most - symbol->least) / symbol->step + 1;
            place = place * values + (size - symbol->least) / symbol->step;
        }
    }
    return place;
}

qc_status qci_sizes_resolve(const qc_program *program, const int64_t sizes[], const int64_t *past, int single,
                           int32_t extents[]) {
    const qc_info *info = program->info;
    const qc_extent *list = single ? program->single_extents : program->extents;
    int32_t count = single ? program->n_single_extents : program->n_extents;
    int64_t length = program->length.state < 0 ? 1 : length_after(program, sizes, past);
    if (!length) return QC_ERR_FULL;
    for (int32_t i = 0; sizes && i < info->n_symbols; i++) {
        const qc_symbol *symbol = &info->symbols[i];
        if (sizes[i] < symbol->least || sizes[i] > symbol->most || (sizes[i] - symbol->least) % symbol->step)
            return QC_ERR_ARGUMENT;
    }
    for (int32_t i = 0; i < count; i++) extents[i] = list[i].table[place_in(program, &list[i], sizes, past, length)];
    return QC_OK;
}

size_t qci_sizes_bytes(const qc_tensor *tensor, const int64_t shape[]) {
    size_t bytes = tensor->bytes;
    for (int32_t i = 0; i < tensor->rank; i++)
        if (tensor->shape[i]) bytes = bytes / (size_t)tensor->shape[i] * (size_t)shape[i];
    return bytes;
}

static const qc_tensor *tensor_of(const qc_info *info, int32_t tensor) {
    return tensor < info->n_inputs ? &info->inputs[tensor] : &info->outputs[tensor - info->n_inputs];
}

int qci_sizes_shape(const qc_program *program, const int32_t extents[], int32_t tensor, int64_t shape[]) {
    const qc_tensor *known = tensor_of(program->info, tensor);
    int smaller = 0;
    for (int32_t i = 0; i < known->rank; i++) shape[i] = known->shape[i];
    for (int32_t i = 0; i < program->n_open; i++) {
        const qc_open_axis *open = &program->open[i];
        if (open->tensor != tensor) continue;
        shape[open->axis] = extents[open->extent];
        smaller |= shape[open->axis] != known->shape[open->axis];
    }
    return smaller;
}

/* Walk the rows of contiguous elements; `to_wide` says in which direction they are copied. */
static void copy_rows(const qc_tensor *tensor, const int64_t shape[], uint8_t *dense, uint8_t *wide, int to_wide) {
    int64_t at[QC_MAX_RANK] = {0}, steps[QC_MAX_RANK];
    size_t element = tensor->bytes, row;
    int32_t last = tensor->rank - 1;
    for (int32_t i = 0; i <= last; i++) {
        element /= (size_t)tensor->shape[i];
        if (shape[i] == 0) return;
    }
    int64_t step = 1;
    for (int32_t i = last; i >= 0; i--) {
        steps[i] = step;
        step *= tensor->shape[i];
    }
    while (last > 0 && shape[last] == tensor->shape[last]) last--; /* whole rows lie side by side */
    row = element * (size_t)(shape[last] * steps[last]);
    for (;;) {
        int64_t offset = 0;
        for (int32_t i = 0; i < last; i++) offset += at[i] * steps[i];
        uint8_t *there = wide + element * (size_t)offset;
        memcpy(to_wide ? there : dense, to_wide ? dense : there, row);
        dense += row;
        int32_t axis = last - 1;
        while (axis >= 0 && ++at[axis] == shape[axis]) at[axis--] = 0;
        if (axis < 0) return;
    }
}

void qci_sizes_spread(const qc_tensor *tensor, const int64_t shape[], const uint8_t *dense, uint8_t *wide) {
    memset(wide, 0, tensor->bytes);
    copy_rows(tensor, shape, (uint8_t *)(uintptr_t)dense, wide, 1);
}

void qci_sizes_gather(const qc_tensor *tensor, const int64_t shape[], const uint8_t *wide, uint8_t *dense) {
    copy_rows(tensor, shape, dense, (uint8_t *)(uintptr_t)wide, 0);
}

qc_status qci_model_shape(const qc_program *program, const int64_t sizes[], int32_t tensor, int64_t shape[]) {
    int32_t extents[1024];
    if (!shape || tensor < 0 || tensor >= program->info->n_inputs + program->info->n_outputs) return QC_ERR_ARGUMENT;
    if (program->n_extents > 1024) return QC_ERR_ARGUMENT;
    qc_status status = qci_sizes_resolve(program, sizes, NULL, 0, extents);
    if (status == QC_OK) qci_sizes_shape(program, extents, tensor, shape);
    return status;
}
