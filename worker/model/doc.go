// Package model knows the model families: from a checkpoint's configuration to
// a decoder.Spec. A family is one small folder with a Spec function, listed in
// families.go; adding one touches nothing else.
package model
