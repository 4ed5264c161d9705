package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"

	"chorale/adaptermgr"
	"chorale/router"
	"chorale/services/adapters"
	"chorale/services/status"
)

// cause is an error with what a reader should know of it.
type cause struct {
	err  error
	text string
}

// inference are the errors of requests, by the sentinels that make them.
var inference = []cause{
	{router.ErrInvalid, "A field is wrong; the message and the field path say which."},
	{status.ErrUnsupported, "A known field or feature that is not served ([limits](../limits.md))."},
	{router.ErrTooLong, "The prompt does not fit into the context."},
	{router.ErrTooManyAdapters, "One request names more distinct adapters than `--max-loaded-loras`."},
	{status.ErrModelNotFound, "`model` is neither the base model nor an adapter. The base model never answers in its place."},
	{router.ErrUnknownAdapter, "The adapter has never been loaded, or was unloaded. Load it."},
	{router.ErrAdapterNotReady, "The adapter is registered but no worker group has it, or it is on its way out. `GetAdapter` tells the state."},
	{router.ErrLoRADisabled, "The server runs with `--no-enable-lora`."},
	{router.ErrOverloaded, "The queue is full. Wait as `Retry-After` says."},
	{router.ErrUnavailable, "No worker group is connected."},
	{router.ErrDraining, "The server is shutting down. Ask another."},
	{router.ErrWorkerLost, "The worker group was lost and the answer could not be continued on another."},
	{router.ErrWorker, "The worker group failed while it computed. Its log says why."},
	{router.ErrAborted, "Aborted by `/abort_request` or the server."},
	{context.Canceled, "The caller went away; nobody sees this but the log."},
	{context.DeadlineExceeded, "The caller's deadline passed."},
}

// surface are the errors of the faces themselves.
var surface = []cause{
	{status.ErrUnauthenticated, "A key is needed: `Authorization: Bearer KEY`."},
	{status.ErrPermission, "The API key may not change adapters: the admin key is needed."},
	{status.ErrBodyTooLarge, "The request body is larger than 32 MiB."},
	{status.ErrOrigin, "A web page of another origin may not call this: name it with `--allowed-origins`. None may change adapters."},
	{status.ErrElsewhere, "Adapters are changed at the address of `--admin-listen` only, and answers are not generated there."},
	{status.ErrRouteNotFound, "Nothing is served at this path."},
	{status.ErrMethod, "The path does not take this method; `Allow` names those it takes."},
	{status.ErrPanic, "A fault in the server. The log has the stack under the request's id."},
}

// management are the errors of loading and unloading adapters.
var management = []cause{
	{adaptermgr.ErrExists, "The name is taken. Unload it, or load with `replace` (vLLM's face: `load_inplace`)."},
	{adaptermgr.ErrNotFound, "No adapter of this name is registered."},
	{adaptermgr.ErrSourceNotFound, "There is no such adapter, or it lies outside every `--adapter-root`: the answer does not tell which, the server's log does."},
	{adaptermgr.ErrSourceDenied, "The source lets this server not in: set `HF_TOKEN` for a hub, credentials for a store; or its address is not public, or not https (`--allow-private-sources`)."},
	{adaptermgr.ErrSourceUnavailable, "The source cannot be reached, fails, stalls, sends another length than it announced, or changed while it was fetched; the message says which, and of which file. Load it again: a download that broke off goes on."},
	{adaptermgr.ErrInvalid, "The files are broken or contradict each other: malformed config, missing, surplus, duplicate or non-finite tensors."},
	{adaptermgr.ErrUnsupported, "A kind of adapter that is not served, named in the message ([limits](../limits.md#adapters))."},
	{adaptermgr.ErrIncompatible, "It does not fit the base model (module names, shapes) or the allowed `--lora-target-modules`."},
	{adaptermgr.ErrRankTooLarge, "Its rank is above `--max-lora-rank`."},
	{adaptermgr.ErrDigest, "The content is not what was asked for (`digest`, `#sha256=`) or what the source promised."},
	{adaptermgr.ErrVersionNotFound, "The name has no such version, or not any more."},
	{adaptermgr.ErrVersionInUse, "The version answers requests: roll back or end its canary first."},
	{adaptermgr.ErrNoEarlier, "There is no earlier version to roll back to."},
	{adaptermgr.ErrStale, "The adapter was changed since the `etag`: look again."},
	{adaptermgr.ErrRequestID, "Another request had this `request_id`."},
	{adaptermgr.ErrCompacted, "Changes since `from_revision` are not kept: list, and watch from there."},
	{adaptermgr.ErrStarvation, "The pin would take the last place in the batch from the other adapters."},
	{adaptermgr.ErrCapacity, "`--max-loaded-loras` or `--max-loaded-lora-bytes` is reached and everything loaded is pinned or in use."},
	{adaptermgr.ErrUnloaded, "The name was unloaded while it was being loaded."},
	{adaptermgr.ErrDiskFull, "The data directory's disk, or `--adapter-disk-quota`, is full. Nothing was changed."},
	{adaptermgr.ErrReadOnly, "The data directory cannot be written. Nothing was changed."},
	{adaptermgr.ErrUnavailable, "No worker group can take the adapter now, one does not let go of it, or the adapter manager cannot be reached."},
	{adaptermgr.ErrClosed, "The adapter manager is shutting down."},
}

const errorsIntro = `# Errors

Every error has a **reason**, a word that programs can rely on; the text is for people. Over gRPC it is the
` + "`google.rpc.ErrorInfo`" + ` detail (domain ` + "`chorale`" + `), with ` + "`BadRequest`" + ` for wrong fields and ` + "`RetryInfo`" + ` where waiting
helps. The native REST routes send the same as ` + "`google.rpc.Status`" + ` JSON. The other faces send their own bodies:

| face | body |
|---|---|
| native | ` + "`{\"code\", \"message\", \"details\": [{\"@type\": …ErrorInfo, \"reason\"}, …]}`" + ` |
| OpenAI | ` + "`{\"error\": {\"message\", \"type\", \"param\", \"code\"}}`" + ` |
| SGLang | ` + "`{\"error\": {\"message\"}}`" + `; the LoRA routes: ` + "`{\"success\": false, \"error_message\", \"loaded_adapters\", …}`" + ` |
| vLLM | ` + "`{\"error\": {\"message\", \"type\", \"param\", \"code\"}}`" + `, the code being the HTTP status |

An error after a stream has begun is one event in the stream, followed by ` + "`data: [DONE]`" + `. Where waiting helps, HTTP answers
carry ` + "`Retry-After`" + ` (↻ below). An error that no table knows is ` + "`INTERNAL`" + `, its text only in the server's log.

`

func errorsPage(string) (string, error) {
	var b strings.Builder
	b.WriteString(notice + errorsIntro)
	seen := map[string]bool{}
	sections := []struct {
		title  string
		causes []cause
		of     func(error) status.Problem
	}{
		{"Requests", inference, status.Of},
		{"Adapters", management, func(err error) status.Problem { return status.Of(adapters.Status(err).Err()) }},
		{"Access and transport", surface, status.Of},
	}
	for _, s := range sections {
		fmt.Fprintf(&b, "## %s\n\n| reason | gRPC | native | OpenAI | SGLang | vLLM | when |\n|---|---|---|---|---|---|---|\n", s.title)
		for _, c := range s.causes {
			p := s.of(c.err)
			if p.Reason == "" {
				return "", fmt.Errorf("%w has no reason", c.err)
			}
			seen[p.Reason] = true
			b.WriteString(errorRow(p, c.text))
		}
		b.WriteString("\n")
	}
	writeOthers(&b, seen)
	return b.String(), nil
}

func errorRow(p status.Problem, text string) string {
	oh, body := status.OpenAI(p)
	oa := body.(map[string]status.OpenAIError)["error"]
	vh, vbody := status.VLLM(p)
	vl := vbody.(map[string]status.OpenAIError)["error"]
	retry := ""
	if p.Retry > 0 {
		retry = " ↻"
	}
	return fmt.Sprintf("| `%s` | %s | %d%s | %d `%v` | %d | %d `%s` | %s |\n",
		p.Reason, codeName(p.Code), p.HTTP, retry, oh, oa.Code, status.SGLangStatus(p), vh, vl.Type, text)
}

// codeName is a code as gRPC spells it: NOT_FOUND.
func codeName(c codes.Code) string {
	var b strings.Builder
	for i, r := range c.String() {
		if r >= 'A' && r <= 'Z' && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToUpper(b.String())
}

// writeOthers lists reasons that no section has, so that none is missing.
func writeOthers(b *strings.Builder, seen map[string]bool) {
	var rest []string
	for _, e := range status.Reasons() {
		if !seen[e.Reason] {
			rest = append(rest, fmt.Sprintf("`%s` (%s)", e.Reason, strconv.Itoa(e.HTTP)+" "+http.StatusText(e.HTTP)))
		}
	}
	if len(rest) > 0 {
		slices.Sort(rest)
		b.WriteString("Further: " + strings.Join(rest, ", ") + ".\n\n")
	}
	b.WriteString("Status 499 is what the log shows for a client that went away.\n")
}
