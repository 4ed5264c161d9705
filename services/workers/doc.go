// Package workers is the wire edge of worker groups, both sides: Server puts a
// worker engine behind WorkerService, Dialer and conn let the router reach one
// through it. It converts and maps errors; it decides nothing.
package workers
