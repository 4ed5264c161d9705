// A communicator of the C interface.
#pragma once

#include "chorale_comm.h"
#include "context.h"
#include "nccl.h"

struct ch_comm {
	ch_context *context;
	chorale::nccl::Comm nccl;
};

namespace chorale {

// translate gives NCCL's failures a status.
[[noreturn]] inline void translate(const nccl::Failure &e) { throw Failure{e.missing ? CH_UNSUPPORTED : CH_COMM, e.text}; }

} // namespace chorale
