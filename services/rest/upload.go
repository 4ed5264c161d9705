package rest

import (
	"encoding/json"
	"errors"
	"io"
	"mime/multipart"
	"net/http"
	"strconv"

	"google.golang.org/protobuf/encoding/protojson"

	choralev1 "chorale/proto/gen/chorale/v1"
	"chorale/services/rest/face"
	"chorale/services/status"
)

// uploadPath takes an adapter's files as multipart/form-data. It stands beside
// the gateway, which knows no streams from clients.
const uploadPath = nativeAdapters + ":upload"

const (
	// uploadPiece is how many bytes of a file go into one message.
	uploadPiece = 512 << 10
	// maxField bounds a form field that is no file.
	maxField = 64 << 10
)

// uploader is POST /chorale/v1/adapters:upload: form fields as
// UploadAdapterHeader has them, labels as a JSON object, and then the files.
type uploader struct {
	to choralev1.AdapterServiceClient
}

func (u *uploader) serve(w http.ResponseWriter, r *http.Request) {
	resp, err := u.upload(r)
	if err != nil {
		status.Write(w, status.Native, err)
		return
	}
	b, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(resp)
	if err != nil {
		status.Write(w, status.Native, err)
		return
	}
	status.WriteJSON(w, http.StatusOK, json.RawMessage(b))
}

func (u *uploader) upload(r *http.Request) (*choralev1.UploadAdapterResponse, error) {
	form, err := r.MultipartReader()
	if err != nil {
		return nil, status.Invalid("body", "must be multipart/form-data: fields, then files")
	}
	h, file, err := readFields(form)
	if err != nil {
		return nil, err
	}
	stream, err := u.to.UploadAdapter(face.Outgoing(r))
	if err != nil {
		return nil, err
	}
	send := func(p *choralev1.UploadAdapterRequest) error { return stream.Send(p) }
	err = send(&choralev1.UploadAdapterRequest{Part: &choralev1.UploadAdapterRequest_Header{Header: h}})
	for err == nil && file != nil {
		if err = sendFile(send, file); err == nil {
			file, err = nextFile(form)
		}
	}
	var sent *sendError
	if err != nil && !errors.As(err, &sent) && !errors.Is(err, io.EOF) {
		return nil, err // the request's context ends the stream
	}
	// A server that has heard enough says why in its answer.
	return stream.CloseAndRecv()
}

// sendError is the stream's, whose answer tells more.
type sendError struct{ error }

// readFields reads the fields before the first file.
func readFields(form *multipart.Reader) (*choralev1.UploadAdapterHeader, *multipart.Part, error) {
	h := &choralev1.UploadAdapterHeader{}
	for {
		p, err := form.NextPart()
		switch {
		case errors.Is(err, io.EOF):
			return h, nil, checkHeader(h)
		case err != nil:
			return nil, nil, broken(err)
		case p.FileName() != "":
			return h, p, checkHeader(h)
		}
		b, err := io.ReadAll(io.LimitReader(p, maxField+1))
		if err != nil {
			return nil, nil, broken(err)
		}
		if len(b) > maxField {
			return nil, nil, status.Invalid(p.FormName(), "must have at most %d bytes", maxField)
		}
		if err := setField(h, p.FormName(), string(b)); err != nil {
			return nil, nil, err
		}
	}
}

func checkHeader(h *choralev1.UploadAdapterHeader) error {
	if h.Name == "" {
		return status.Invalid("name", "is required, before the files")
	}
	return nil
}

func setField(h *choralev1.UploadAdapterHeader, name, value string) error {
	flags := map[string]*bool{"pinned": &h.Pinned, "must_be_new": &h.MustBeNew, "replace": &h.Replace}
	switch name {
	case "name":
		h.Name = value
	case "digest":
		h.Digest = value
	case "owner":
		h.Owner = value
	case "etag":
		h.Etag = value
	case "weight":
		n, err := strconv.ParseInt(value, 10, 32)
		if err != nil {
			return status.Invalid(name, "must be a whole number of percent")
		}
		w := int32(n)
		h.Weight = &w
	case "labels":
		if err := json.Unmarshal([]byte(value), &h.Labels); err != nil {
			return status.Invalid(name, "must be a JSON object of strings")
		}
	default:
		flag := flags[name]
		if flag == nil {
			return status.Invalid(name, "is not a field of an upload")
		}
		on, err := strconv.ParseBool(value)
		if err != nil {
			return status.Invalid(name, "must be true or false")
		}
		*flag = on
	}
	return nil
}

// nextFile returns the next part, which must be a file, or io.EOF.
func nextFile(form *multipart.Reader) (*multipart.Part, error) {
	p, err := form.NextPart()
	switch {
	case errors.Is(err, io.EOF):
		return nil, io.EOF
	case err != nil:
		return nil, broken(err)
	case p.FileName() == "":
		return nil, status.Invalid(p.FormName(), "must come before the files")
	}
	return p, nil
}

func sendFile(send func(*choralev1.UploadAdapterRequest) error, file *multipart.Part) error {
	err := send(&choralev1.UploadAdapterRequest{Part: &choralev1.UploadAdapterRequest_File{File: file.FileName()}})
	buf := make([]byte, uploadPiece)
	for err == nil {
		n, rerr := fill(file, buf)
		if n > 0 {
			err = send(&choralev1.UploadAdapterRequest{Part: &choralev1.UploadAdapterRequest_Data{Data: buf[:n]}})
		}
		switch {
		case err != nil:
		case errors.Is(rerr, io.EOF):
			return nil
		case rerr != nil:
			return broken(rerr)
		}
	}
	return &sendError{err}
}

// fill reads until buf is full. Unlike io.ReadFull it keeps a file's end apart
// from that of a body that was cut short.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

func broken(err error) error {
	return status.Invalid("body", "broke off: %v", err)
}
