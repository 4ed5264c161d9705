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
	all := &choralev1.ListAdaptersResponse{}
	for token := ""; ; {
		page := &choralev1.ListAdaptersResponse{}
		q := url.Values{"page_size": {strconv.Itoa(pageSize)}}
		if token != "" {
			q.Set("page_token", token)
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

// Unload removes an adapter; force aborts its running requests.
func (c *Client) Unload(ctx context.Context, name string, force bool) (*choralev1.UnloadAdapterResponse, error) {
	out := &choralev1.UnloadAdapterResponse{}
	req := call{method: http.MethodDelete, path: adaptersPath + "/" + escape(name), admin: true}
	if force {
		req.query = url.Values{"force": {"true"}}
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
