// Package coldstart measures what a request pays whose adapter is not on the
// device yet, and what those pay that run meanwhile.
//
// A few requests of the base model decode all the time. Each trial asks for one
// adapter in a known state: resident (on the device, used before), host (in the
// worker's host memory only) or file (nowhere but in a folder, whose pages the
// system has cached: reading, checking and sending it are in the time). The first
// token's time over that of a resident one is the cold start. Meanwhile the
// longest time between two tokens of the running requests is kept: the trial's
// own prompt makes a step longer too, so the resident trials are the measure for
// that as well.
//
// The subject is an engine in this process on weights of noise, or a server.
package coldstart
