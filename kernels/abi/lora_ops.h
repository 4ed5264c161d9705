// The LoRA half of a linear layer.
#pragma once

#include "stream.h"

namespace chorale {

// LoraSlot is a table of terms on the device.
struct LoraSlot {
	const int32_t *count;
	const ch_lora_term *terms;
};

// lora_slot finds an operation's table; slot is its number plus 1.
inline LoraSlot lora_slot(const ch_stream &s, int32_t slot) {
	const char *at = s.slots.device + (slot - 1) * s.slot_stride;
	return {reinterpret_cast<const int32_t *>(at), reinterpret_cast<const ch_lora_term *>(at + 16)};
}

// lora_linear adds the terms of op's slot to op.dst.
void lora_linear(ch_stream &s, const ch_op &op);

} // namespace chorale
