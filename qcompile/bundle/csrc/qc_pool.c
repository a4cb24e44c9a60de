/* A handle's threads. Each kernel call is cut into as many ranges of tiles as there are threads to run them. The cut
 * is fixed by arithmetic alone; which thread runs a range is not, and by the kernels' contract does not matter.
 *
 * Every worker has a mailbox of its own, one word: the caller fills in the job, offers a range to each worker that takes
 * part, and runs the first range itself. Then it takes back the ranges that no worker has begun (one that sleeps, or that
 * the system gives no core, delays nobody), and waits for the others. Both sides look for a short while before they
 * sleep: steps follow each other within microseconds, runs may not. A step costs each worker two lines of cache that
 * change hands, the job's and the mailbox's, so nothing else lies in them.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "qc_runtime.h"

#define QC_SPIN_NS 50000

/* What a mailbox says of its range; it changes from QC_FREE by the caller, and back by who has run the range. */
enum { QC_FREE, QC_OFFERED, QC_BEGUN, QC_STOP };

typedef struct qc_worker {
    _Alignas(128) _Atomic uint32_t mailbox;
    _Alignas(128) _Atomic int asleep;
    int32_t index;
    qc_pool *pool;
    pthread_cond_t wake;
    pthread_t thread;
} qc_worker;

struct qc_pool {
    _Alignas(128) qc_job job;
    int32_t parts;
    _Alignas(128) _Atomic int waiting; /* the caller sleeps until a range has been run */
    _Atomic int32_t failure;
    int32_t threads;
    uint8_t *scratch;
    size_t stride;
    pthread_mutex_t lock;
    pthread_cond_t done;
    qc_worker *workers; /* workers[i] runs range i; [0] is the caller and unused */
};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("isb" ::: "memory"); /* `yield` does nothing on the usual cores, this stalls for a few cycles */
#endif
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Look until a mailbox says something else; give up after QC_SPIN_NS. */
static int spin(const _Atomic uint32_t *mailbox, uint32_t old) {
    uint64_t start = now_ns();
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(mailbox, memory_order_acquire) != old) return 1;
            relax();
        }
    } while (now_ns() - start < QC_SPIN_NS);
    return 0;
}

static int32_t run_part(const qc_job *job, int32_t part, int32_t parts, uint8_t *scratch) {
    int64_t units = ((int64_t)job->tiles + job->grain - 1) / job->grain;
    int64_t begin = units * part / parts * job->grain, end = units * (part + 1) / parts * job->grain;
    uint8_t *const *a = job->args;
    if (end > job->tiles) end = job->tiles;
    int32_t rc = 0;
    /* A range of the tiles that count may reach over several segments; with one segment it is a single call. */
    while (begin < end && !rc) {
        int64_t segment = begin / job->live, first = begin % job->live, count = job->live - first;
        if (count > end - begin) count = end - begin;
        int64_t at = segment * job->segment + first;
        rc = job->kernel(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], scratch, (int32_t)at, (int32_t)(at + count));
        begin += count;
    }
    return rc;
}

/* Wait until the mailbox is not free. */
static void await_offer(qc_worker *worker) {
    if (spin(&worker->mailbox, QC_FREE)) return;
    pthread_mutex_lock(&worker->pool->lock);
    atomic_store(&worker->asleep, 1);
    while (atomic_load(&worker->mailbox) == QC_FREE) pthread_cond_wait(&worker->wake, &worker->pool->lock);
    atomic_store(&worker->asleep, 0);
    pthread_mutex_unlock(&worker->pool->lock);
}

/* Change a mailbox from QC_OFFERED; only one of both sides can. */
static int take(qc_worker *worker, uint32_t next) {
    uint32_t offered = QC_OFFERED;
    return atomic_compare_exchange_strong(&worker->mailbox, &offered, next);
}

static void *work(void *argument) {
    qc_worker *worker = argument;
    qc_pool *pool = worker->pool;
    for (;;) {
        await_offer(worker);
        if (!take(worker, QC_BEGUN)) {
            if (atomic_load(&worker->mailbox) == QC_STOP) return NULL;
            continue; /* we came late, the caller runs it */
        }
        int32_t rc = run_part(&pool->job, worker->index, pool->parts, pool->scratch + worker->index * pool->stride);
        if (rc) atomic_store(&pool->failure, rc);
        /* Sequential order of the mailbox and `waiting` (and of their counterparts in finish): either we see that the
         * caller sleeps, or it sees that we are done. */
        atomic_store(&worker->mailbox, QC_FREE);
        if (atomic_load(&pool->waiting)) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->done);
            pthread_mutex_unlock(&pool->lock);
        }
    }
}

static void post(qc_worker *worker, uint32_t what) {
    atomic_store(&worker->mailbox, what);
    if (!atomic_load(&worker->asleep)) return;
    pthread_mutex_lock(&worker->pool->lock);
    pthread_cond_signal(&worker->wake);
    pthread_mutex_unlock(&worker->pool->lock);
}

/* Wait until a worker has run the range that it has begun. */
static void finish(qc_pool *pool, qc_worker *worker) {
    if (atomic_load(&worker->mailbox) == QC_FREE || spin(&worker->mailbox, QC_BEGUN)) return;
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->waiting, 1);
    while (atomic_load(&worker->mailbox) != QC_FREE) pthread_cond_wait(&pool->done, &pool->lock);
    atomic_store(&pool->waiting, 0);
    pthread_mutex_unlock(&pool->lock);
}

int32_t qci_pool_run(qc_pool *pool, const qc_job *job) {
    int32_t units = (int32_t)(((int64_t)job->tiles + job->grain - 1) / job->grain);
    int32_t parts = units < pool->threads ? units : pool->threads;
    if (parts <= 1) return run_part(job, 0, 1, pool->scratch);
    pool->job = *job;
    pool->parts = parts;
    for (int32_t i = 1; i < parts; i++) post(&pool->workers[i], QC_OFFERED);
    int32_t rc = run_part(job, 0, parts, pool->scratch);
    for (int32_t i = 1; i < parts; i++) {
        qc_worker *worker = &pool->workers[i];
        if (atomic_load(&worker->mailbox) != QC_OFFERED || !take(worker, QC_FREE)) continue;
        int32_t other = run_part(job, i, parts, pool->scratch);
        rc = rc ? rc : other;
    }
    for (int32_t i = 1; i < parts; i++) finish(pool, &pool->workers[i]);
    int32_t other = atomic_load(&pool->failure);
    if (other) atomic_store(&pool->failure, 0);
    return rc ? rc : other;
}

/* Start worker i with all signals blocked: they belong to the caller's own threads. */
static int start(qc_pool *pool, int32_t i) {
    qc_worker *worker = &pool->workers[i];
    sigset_t all, old;
    worker->index = i;
    worker->pool = pool;
    if (pthread_cond_init(&worker->wake, NULL)) return 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = pthread_create(&worker->thread, NULL, work, worker);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc) pthread_cond_destroy(&worker->wake);
    return rc == 0;
}

qc_pool *qci_pool_create(int32_t threads, uint8_t *scratch, size_t stride) {
    void *memory = NULL;
    size_t head = (sizeof(qc_pool) + 127) & ~(size_t)127, all = head + (size_t)threads * sizeof(qc_worker);
    if (posix_memalign(&memory, 128, all)) return NULL;
    for (size_t i = 0; i < all; i++) ((uint8_t *)memory)[i] = 0;
    qc_pool *pool = memory;
    pool->workers = (qc_worker *)((uint8_t *)memory + head);
    pool->scratch = scratch;
    pool->stride = stride;
    pool->threads = 1;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->done, NULL);
    while (pool->threads < threads) {
        if (!start(pool, pool->threads)) {
            qci_pool_destroy(pool);
            return NULL;
        }
        pool->threads++;
    }
    return pool;
}

void qci_pool_destroy(qc_pool *pool) {
    if (!pool) return;
    for (int32_t i = 1; i < pool->threads; i++) post(&pool->workers[i], QC_STOP);
    for (int32_t i = 1; i < pool->threads; i++) {
        pthread_join(pool->workers[i].thread, NULL);
        pthread_cond_destroy(&pool->workers[i].wake);
    }
    pthread_cond_destroy(&pool->done);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

int32_t qci_online_cores(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set)) return 1;
    int count = CPU_COUNT(&set);
    return count < 1 ? 1 : count > QC_MAX_THREADS ? QC_MAX_THREADS : count;
}
