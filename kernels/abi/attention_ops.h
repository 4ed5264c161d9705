// Attention of a stream's steps: plans, their tables and the workspace.
#pragma once

#include <vector>

#include "attention.cuh"
#include "context.h"

struct ch_stream;

namespace chorale {

// Planned is what all layers of one shape share in a step.
struct Planned {
	AttentionShape shape = {};
	char *host = nullptr, *device = nullptr; // the plan's table
	AttentionPlan plan = {};
	bool current = false; // planned for this submission
};

// Workspace serves steps of a stream that have equal heads.
struct Workspace {
	int32_t heads = 0, head_dim = 0;
	AttentionSpace space = {};
	void *memory = nullptr;
};

// AttentionOps belongs to a stream. Addresses that it gives to kernels never
// change, so graphs may hold them.
class AttentionOps {
  public:
	~AttentionOps();
	// prepare plans the submission's attention and starts uploading the plans.
	void prepare(ch_stream &s, const ch_submission &sub);
	// run starts op. False when its shape is not served: the plain kernel does it.
	bool run(ch_stream &s, const ch_layout &layout, const ch_op &op);

  private:
	Planned *find(const AttentionShape &shape);
	Workspace &workspace(ch_stream &s, const AttentionShape &shape);
	void plan(ch_stream &s, const ch_submission &sub, const AttentionShape &shape);

	std::vector<Planned> planned_;
	std::vector<Workspace> workspaces_;
};

} // namespace chorale
