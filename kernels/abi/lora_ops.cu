#include "lora_ops.h"

#include "lora.cuh"

namespace chorale {

void lora_linear(ch_stream &s, const ch_op &op) {
	const LoraSlot slot = lora_slot(s, op.slot);
	lora::LoraLaunch l = {};
	l.terms = slot.terms, l.count = slot.count, l.max_terms = s.slot_terms;
	l.rows = op.rows;
	l.x = op.x.data, l.ldx = op.x.pitch, l.in = op.in;
	l.y = op.dst.data, l.ldy = op.dst.pitch, l.y_float = op.dst.wide != 0;
	l.scratch = s.lora_scratch;
	l.early = true; // terms are uploaded before the step's first kernel
	check(lora::lora_shrink(l, s.cuda), "LoRA shrink");
	check(lora::lora_expand(l, s.cuda), "LoRA expand");
}

} // namespace chorale
