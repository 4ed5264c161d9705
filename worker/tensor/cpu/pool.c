//go:build cgo && linux && amd64

#define _GNU_SOURCE
#include "pool.h"

#include <immintrin.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// Idle threads spin for this long before they sleep: longer than the gaps
// between the operations of a step, far shorter than a person notices.
#define SPIN_NANOSECONDS 80000

#define PAUSES_BEFORE_YIELD 2000

// Every field that threads write by turns has a cache line of its own.
#define OWN_LINE __attribute__((aligned(64)))

struct ck_pool {
	int threads;
	pthread_t *ids;
	// What to run; written only while open is 0 and inside is 0.
	ck_unit *fn;
	void *arg;
	long units;
	OWN_LINE atomic_uint epoch;    // counts jobs; threads sleep on it
	OWN_LINE atomic_int open;      // a job may be entered
	OWN_LINE atomic_int inside;    // threads between enter and leave
	OWN_LINE atomic_long next;     // the next unit
	OWN_LINE atomic_int sleepers;  // threads that need a wake call
	atomic_int stop;
};

static long futex(atomic_uint *at, int op, unsigned value) {
	return syscall(SYS_futex, at, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

static long now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000L + t.tv_nsec;
}

static void work(ck_pool *p) {
	for (;;) {
		long i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
		if (i >= p->units) return;
		p->fn(p->arg, i);
	}
}

// await returns the epoch after seen, first spinning, then sleeping.
static unsigned await(ck_pool *p, unsigned seen) {
	long until = 0;
	for (unsigned n = 1;; n++) {
		unsigned e = atomic_load_explicit(&p->epoch, memory_order_acquire);
		if (e != seen) return e;
		_mm_pause();
		if (n % 64) continue;
		long t = now();
		if (until == 0) until = t + SPIN_NANOSECONDS;
		if (t < until) continue;
		// The count goes up before the kernel looks at the epoch, and the caller
		// changes the epoch before it looks at the count: no wake-up is lost.
		atomic_fetch_add(&p->sleepers, 1);
		futex(&p->epoch, FUTEX_WAIT, seen);
		atomic_fetch_sub(&p->sleepers, 1);
		until = 0;
	}
}

static void *loop(void *arg) {
	ck_pool *p = arg;
	unsigned seen = 0;
	for (;;) {
		seen = await(p, seen);
		if (atomic_load(&p->stop)) return NULL;
		// Entering is announced before open is read, and the caller closes before
		// it reads inside: either the caller waits for this thread, or this thread
		// sees that the job is over. Late threads may join a later job; that is fine.
		atomic_fetch_add(&p->inside, 1);
		if (atomic_load(&p->open)) work(p);
		atomic_fetch_sub(&p->inside, 1);
	}
}

void ck_pause(unsigned n) {
	_mm_pause();
	if (n % PAUSES_BEFORE_YIELD == 0) sched_yield();
}

void ck_pool_run(ck_pool *p, ck_unit *fn, void *arg, long units) {
	if (units <= 1 || p->threads == 1) {
		for (long i = 0; i < units; i++) fn(arg, i);
		return;
	}
	p->fn = fn;
	p->arg = arg;
	p->units = units;
	atomic_store_explicit(&p->next, 0, memory_order_relaxed);
	atomic_store(&p->open, 1);
	atomic_fetch_add(&p->epoch, 1);
	if (atomic_load(&p->sleepers)) futex(&p->epoch, FUTEX_WAKE, INT_MAX);
	work(p);
	atomic_store(&p->open, 0);
	for (unsigned n = 1; atomic_load(&p->inside); n++) ck_pause(n);
}

// start makes a thread that receives no signals: they belong to Go's threads.
static int start(pthread_t *id, ck_pool *p) {
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int rc = pthread_create(id, NULL, loop, p);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return rc;
}

ck_pool *ck_pool_new(int threads) {
	ck_pool *p = NULL;
	if (posix_memalign((void **)&p, 64, sizeof *p)) return NULL;
	memset(p, 0, sizeof *p);
	p->ids = calloc(threads, sizeof *p->ids);
	if (!p->ids) {
		free(p);
		return NULL;
	}
	for (p->threads = 1; p->threads < threads; p->threads++) {
		if (start(&p->ids[p->threads], p)) {
			ck_pool_free(p);
			return NULL;
		}
	}
	return p;
}

void ck_pool_free(ck_pool *p) {
	atomic_store(&p->stop, 1);
	atomic_fetch_add(&p->epoch, 1);
	futex(&p->epoch, FUTEX_WAKE, INT_MAX);
	for (int i = 1; i < p->threads; i++) pthread_join(p->ids[i], NULL);
	free(p->ids);
	free(p);
}
