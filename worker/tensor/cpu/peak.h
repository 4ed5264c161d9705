// What the machine can do: streaming reads and multiply-add peaks.
#ifndef CHORALE_PEAK_H
#define CHORALE_PEAK_H

#include "pool.h"

// ck_read reads bytes from p on the pool, in pieces of 1 MiB.
void ck_read(ck_pool *pool, const void *p, long bytes);

// ck_fma_512, ck_fma_256, ck_dot_512 and ck_dot_tiles (AMX) run steps of independent multiply-adds
// in every unit and return the operations of one unit (a multiply and an add
// count two).
double ck_fma_512(ck_pool *pool, long units, long steps);
double ck_fma_256(ck_pool *pool, long units, long steps);
double ck_dot_512(ck_pool *pool, long units, long steps);
double ck_dot_tiles(ck_pool *pool, long units, long steps);

#endif
