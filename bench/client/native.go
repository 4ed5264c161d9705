package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	choralev1 "chorale/proto/gen/chorale/v1"
)

// decode takes what newer servers may add.
var decode = protojson.UnmarshalOptions{DiscardUnknown: true}

// message makes a native call. in may be nil.
func (c *Client) message(ctx context.Context, req call, in, out proto.Message) error {
	if in != nil {
		b, err := protojson.Marshal(in)
		if err != nil {
			return fmt.Errorf("client: %s %s: %w", req.method, req.path, err)
		}
		req.body = b
	}
	b, err := c.bytes(ctx, req)
	if err != nil {
		return err
	}
	if err := decode.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%s %s: %w: %v", req.method, req.path, ErrAnswer, err)
	}
	return nil
}

// Server tells the server's load and its worker groups.
func (c *Client) Server(ctx context.Context) (*choralev1.GetServerInfoResponse, error) {
	out := &choralev1.GetServerInfoResponse{}
	return out, c.message(ctx, call{method: http.MethodGet, path: "/chorale/v1/server"}, nil, out)
}

// Model describes the base model.
func (c *Client) Model(ctx context.Context) (*choralev1.GetModelResponse, error) {
	out := &choralev1.GetModelResponse{}
	return out, c.message(ctx, call{method: http.MethodGet, path: "/chorale/v1/model"}, nil, out)
}

// Voices lists the names of the adapters that can be used now. It needs the
// key of inference only, not the administrator's.
func (c *Client) Voices(ctx context.Context) ([]string, error) {
	var list struct {
		Data []struct {
			ID     string  `json:"id"`
			Parent *string `json:"parent"`
		} `json:"data"`
	}
	if err := c.JSON(ctx, http.MethodGet, "/v1/models", nil, &list); err != nil {
		return nil, err
	}
	var names []string
	for _, m := range list.Data {
		if m.Parent != nil {
			names = append(names, m.ID)
		}
	}
	return names, nil
}

const adaptersPath = "/chorale/v1/adapters"

// Adapters lists all registered adapters by name.
func (c *Client) Adapters(ctx context.Context) (*choralev1.ListAdaptersResponse, error) {
	return c.AdaptersOf(ctx, "", nil)
}

// AdaptersOf lists those of an owner ("": any) that have all the labels.
func (c *Client) AdaptersOf(ctx context.Context, owner string, labels map[string]string) (*choralev1.ListAdaptersResponse, error) {
	all := &choralev1.ListAdaptersResponse{}
	for token := ""; ; {
		page := &choralev1.ListAdaptersResponse{}
		q := url.Values{"page_size": {strconv.Itoa(pageSize)}}
		if token != "" {
			q.Set("page_token", token)
		}
		if owner != "" {
			q.Set("owner", owner)
		}
		for k, v := range labels {
			q.Set("labels["+k+"]", v)
		}
		if err := c.message(ctx, call{method: http.MethodGet, path: adaptersPath, query: q, admin: true}, nil, page); err != nil {
			return nil, err
		}
		all.Adapters = append(all.Adapters, page.GetAdapters()...)
		all.Revision = page.GetRevision()
		next := page.GetNextPageToken()
		if next == "" || next == token {
			return all, nil
		}
		token = next
	}
}

const pageSize = 1000

// Load loads an adapter and returns when it can be used.
func (c *Client) Load(ctx context.Context, in *choralev1.LoadAdapterRequest) (*choralev1.LoadAdapterResponse, error) {
	out := &choralev1.LoadAdapterResponse{}
	return out, c.message(ctx, call{method: http.MethodPost, path: adaptersPath, admin: true}, in, out)
}

// Adapter tells of one adapter.
func (c *Client) Adapter(ctx context.Context, name string) (*choralev1.Adapter, error) {
	out := &choralev1.GetAdapterResponse{}
	req := call{method: http.MethodGet, path: adaptersPath + "/" + escape(name), admin: true}
	err := c.message(ctx, req, nil, out)
	return out.GetAdapter(), err
}

// Update changes pin, owner and labels.
func (c *Client) Update(ctx context.Context, in *choralev1.UpdateAdapterRequest) (*choralev1.UpdateAdapterResponse, error) {
	out := &choralev1.UpdateAdapterResponse{}
	req := call{method: http.MethodPatch, path: adaptersPath + "/" + escape(in.GetName()), admin: true}
	body := proto.CloneOf(in)
	body.Name = "" // it is in the path
	return out, c.message(ctx, req, body, out)
}

// Canary gives a version a share of an adapter's new requests.
func (c *Client) Canary(ctx context.Context, in *choralev1.CanaryAdapterRequest) (*choralev1.CanaryAdapterResponse, error) {
	out := &choralev1.CanaryAdapterResponse{}
	return out, c.message(ctx, call{method: http.MethodPost, path: adaptersPath + ":canary", admin: true}, in, out)
}

// Rollback lets an earlier version answer.
func (c *Client) Rollback(ctx context.Context, in *choralev1.RollbackAdapterRequest) (*choralev1.RollbackAdapterResponse, error) {
	out := &choralev1.RollbackAdapterResponse{}
	return out, c.message(ctx, call{method: http.MethodPost, path: adaptersPath + ":rollback", admin: true}, in, out)
}

// Watch calls f with the catalogue and then each change of it, or, with a
// revision of an earlier answer, with what has changed since. It returns when f
// fails, ctx ends, or the server ends the stream.
func (c *Client) Watch(ctx context.Context, from uint64, f func(*choralev1.WatchAdaptersResponse) error) error {
	req := call{method: http.MethodGet, path: adaptersPath + ":watch", admin: true}
	if from != 0 {
		req.query = url.Values{"from_revision": {strconv.FormatUint(from, 10)}}
	}
	return c.lines(ctx, req, func(line []byte) error {
		if len(line) == 0 {
			return nil
		}
		var m struct {
			Result json.RawMessage `json:"result"`
		}
		if e := streamError(req.method, req.path, line); e != nil {
			return e
		}
		if err := json.Unmarshal(line, &m); err != nil {
			return fmt.Errorf("GET %s: %w: %w", req.path, ErrAnswer, err)
		}
		out := &choralev1.WatchAdaptersResponse{}
		if err := decode.Unmarshal(m.Result, out); err != nil {
			return fmt.Errorf("GET %s: %w: %w", req.path, ErrAnswer, err)
		}
		return f(out)
	})
}

// Unload removes an adapter, or a version of one ("name@3").
func (c *Client) Unload(ctx context.Context, in *choralev1.UnloadAdapterRequest) (*choralev1.UnloadAdapterResponse, error) {
	out := &choralev1.UnloadAdapterResponse{}
	req := call{method: http.MethodDelete, path: adaptersPath + "/" + escape(in.GetName()), admin: true, query: url.Values{}}
	if in.GetForce() {
		req.query.Set("force", "true")
	}
	if d := in.GetDrainTimeout(); d != nil {
		req.query.Set("drain_timeout", strconv.FormatFloat(d.AsDuration().Seconds(), 'f', -1, 64)+"s")
	}
	if in.GetAllowMissing() {
		req.query.Set("allow_missing", "true")
	}
	for name, v := range map[string]string{"etag": in.GetEtag(), "request_id": in.GetRequestId()} {
		if v != "" {
			req.query.Set(name, v)
		}
	}
	return out, c.message(ctx, req, nil, out)
}

// escape writes an adapter's name as path segments; its slashes stay.
func escape(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}

// Validate tells whether an adapter could be loaded, and its cost.
func (c *Client) Validate(ctx context.Context, source string) (*choralev1.ValidateAdapterResponse, error) {
	out := &choralev1.ValidateAdapterResponse{}
	req := call{method: http.MethodPost, path: adaptersPath + ":validate", admin: true}
	return out, c.message(ctx, req, &choralev1.ValidateAdapterRequest{Source: source}, out)
}

// Generate asks for answers and calls f with each piece as it comes. An error
// of f ends the request and is returned.
func (c *Client) Generate(ctx context.Context, in *choralev1.GenerateRequest, f func(*choralev1.GenerateStreamResponse) error) error {
	const path = "/chorale/v1/generate:stream"
	body, err := protojson.Marshal(&choralev1.GenerateStreamRequest{Request: in})
	if err != nil {
		return fmt.Errorf("client: POST %s: %w", path, err)
	}
	req := call{method: http.MethodPost, path: path, body: body}
	return c.lines(ctx, req, func(line []byte) error {
		if len(bytes.TrimSpace(line)) == 0 {
			return nil
		}
		if e := streamError(req.method, path, line); e != nil {
			return e
		}
		var envelope struct {
			Result json.RawMessage `json:"result"`
		}
		piece := &choralev1.GenerateStreamResponse{}
		err := json.Unmarshal(line, &envelope)
		if err == nil {
			err = decode.Unmarshal(envelope.Result, piece)
		}
		if err != nil {
			return fmt.Errorf("POST %s: %w: %v", path, ErrAnswer, err)
		}
		return f(piece)
	})
}
