// A fork-join pool of threads for short operations.
#ifndef CHORALE_POOL_H
#define CHORALE_POOL_H

typedef struct ck_pool ck_pool;

// ck_unit does one piece of work.
typedef void ck_unit(void *arg, long unit);

// ck_pool_new starts threads-1 threads; NULL when the system refuses one.
ck_pool *ck_pool_new(int threads);

// ck_pool_run runs fn(arg, 0..units-1) on the pool and the caller, and returns
// when all are done. Units start in order. One caller at a time.
void ck_pool_run(ck_pool *p, ck_unit *fn, void *arg, long units);

// ck_pause waits a moment in a loop on another thread's progress; n counts the
// rounds. Now and then it gives the core away: the other thread may need it.
void ck_pause(unsigned n);

// ck_pool_free joins the threads.
void ck_pool_free(ck_pool *p);

#endif
