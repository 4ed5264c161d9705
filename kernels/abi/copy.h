// Memory and copies beside the steps.
#pragma once

#include "context.h"

namespace chorale {

// open_copies makes the copy stream and the pool of ranges.
void open_copies(ch_context &c);
void close_copies(ch_context &c);

// probe_kernel is any kernel, to ask whether this library has code for a device.
const void *probe_kernel();

} // namespace chorale
