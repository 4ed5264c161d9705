// Package adapters is the wire edge of the adapter manager: AdapterService for
// administrators and routers, and the WorkerService client through which the
// manager pushes. It holds no policy: requests become calls of
// adaptermgr.Manager, errors become statuses by the one table in status.go.
package adapters
