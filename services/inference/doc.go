// Package inference is the native face: chorale.v1.InferenceService over the
// router. Messages become router requests, events become messages, errors
// become statuses; whatever decides lives in the router.
package inference
