// Package peft reads LoRA adapters as the Python library PEFT saves them:
// adapter_config.json and adapter_model.safetensors. It decides which modules
// of a base model an adapter changes, with which rank and scale, and finds
// each module's tensors. It needs no tensor library and computes nothing.
//
// The semantics are PEFT's, read from its source (0.17 to 0.21; where those
// differ, 0.21) and compared with it by golden files. What PEFT would accept
// but this package cannot serve exactly is refused by name (ErrUnsupported);
// what PEFT would silently skip (missing, surplus or misplaced tensors) is an
// error, since a silently incomplete adapter answers wrongly.
//
// # From config to modules
//
// Config.Targets applies, per module of the base, in this order:
//
//   - exclude_modules: a list matches a name or its suffix after a dot, a
//     string is a regular expression for the whole name;
//   - target_modules: a list as above, a string as above, or "all-linear":
//     every linear layer but the output head;
//   - layers_to_transform and layers_pattern, for list entries that matched by
//     suffix (an entry that is the module's full name skips them);
//   - rank_pattern and alpha_pattern: the first key, in file order, that
//     matches as (.*\.)?(key)$ wins.
//
// Stricter than PEFT: an entry of a target_modules list that matches no module
// of the base at all is an error, for it nearly always means another base.
//
// Regular expressions are Python's. Those that Go's linear-time engine
// understands run there; look-around and back-references run in a backtracking
// engine under a time limit, so a hostile pattern cannot hold a server.
//
// # What the numbers mean
//
// y = base(x) + Scale · B(A x), A [r, in], B [out, r]. An embedding's A is
// [r, vocab] and B [hidden, r]: row = base row + Scale · (Aᵀ Bᵀ) row. With
// lora_bias the B side has a bias: + Scale · BBias. With bias "all" or
// "lora_only" the file holds trained biases that replace the base layer's.
//
// fan_in_fan_out says how the base layer stores its own weight (GPT-2's
// Conv1D). Stored A and B do not depend on it, and PEFT itself resets it for
// linear layers; it is parsed and has no effect.
package peft
