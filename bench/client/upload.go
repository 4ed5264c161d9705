package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	choralev1 "chorale/proto/gen/chorale/v1"
)

// form is a multipart body of known length.
type form struct {
	contentType string
	body        io.Reader
	length      int64
}

// Upload sends an adapter's files, or one archive, and returns when it can be
// used. progress, if not nil, gets the bytes sent and those to send.
func (c *Client) Upload(ctx context.Context, h *choralev1.UploadAdapterHeader, files []string, progress func(done, total int64)) (_ *choralev1.UploadAdapterResponse, err error) {
	var open []*os.File
	defer func() {
		for _, f := range open {
			err = errors.Join(err, f.Close())
		}
	}()
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		open = append(open, f)
	}
	body, err := newForm(h, open)
	if err != nil {
		return nil, err
	}
	if progress != nil {
		// The transport must not close it, nor know more of it than Read.
		body.body = &counting{r: body.body, total: body.length, report: progress}
	}
	out := &choralev1.UploadAdapterResponse{}
	return out, c.message(ctx, call{method: http.MethodPost, path: adaptersPath + ":upload", form: body, admin: true}, nil, out)
}

// newForm puts fields and files into one body.
func newForm(h *choralev1.UploadAdapterHeader, files []*os.File) (*form, error) {
	var text bytes.Buffer
	w := multipart.NewWriter(&text)
	out := &form{contentType: w.FormDataContentType()}
	var parts []io.Reader
	cut := func() {
		parts = append(parts, bytes.NewReader(bytes.Clone(text.Bytes())))
		out.length += int64(text.Len())
		text.Reset()
	}
	err := writeFields(w, h)
	for _, f := range files {
		st, serr := f.Stat()
		if err = errors.Join(err, serr); err != nil {
			return nil, err
		}
		if _, err = w.CreateFormFile("file", filepath.Base(f.Name())); err != nil {
			return nil, err
		}
		cut()
		parts = append(parts, io.LimitReader(f, st.Size()))
		out.length += st.Size()
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	cut()
	out.body = io.MultiReader(parts...)
	return out, nil
}

func writeFields(w *multipart.Writer, h *choralev1.UploadAdapterHeader) error {
	fields := [][2]string{
		{"name", h.GetName()},
		{"pinned", strconv.FormatBool(h.GetPinned())},
		{"must_be_new", strconv.FormatBool(h.GetMustBeNew())},
		{"replace", strconv.FormatBool(h.GetReplace())},
	}
	for _, f := range [][2]string{{"digest", h.GetDigest()}, {"owner", h.GetOwner()}, {"etag", h.GetEtag()}} {
		if f[1] != "" {
			fields = append(fields, f)
		}
	}
	if h.Weight != nil {
		fields = append(fields, [2]string{"weight", strconv.Itoa(int(h.GetWeight()))})
	}
	if len(h.GetLabels()) > 0 {
		b, err := json.Marshal(h.GetLabels())
		if err != nil {
			return fmt.Errorf("client: labels: %w", err)
		}
		fields = append(fields, [2]string{"labels", string(b)})
	}
	for _, f := range fields {
		if err := w.WriteField(f[0], f[1]); err != nil {
			return err
		}
	}
	return nil
}

// counting tells how much has been read.
type counting struct {
	r           io.Reader
	done, total int64
	report      func(done, total int64)
}

// Read reads and reports.
func (c *counting) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.done += int64(n)
	c.report(c.done, c.total)
	return n, err
}
