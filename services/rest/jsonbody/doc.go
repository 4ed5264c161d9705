// Package jsonbody reads JSON request bodies field by field and says exactly
// where one is wrong: "sampling_params.temperature: must be a number, got
// string". Fields that nobody asks for are ignored, as the faces that other
// servers' clients talk to must do; null is the same as absent.
//
// Values stay raw until a getter wants them, so that a body costs a small
// multiple of its own size, whatever it holds.
package jsonbody
