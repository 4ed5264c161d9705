package rest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	choralev1 "chorale/proto/gen/chorale/v1"
	"chorale/services/rest/face"
	"chorale/services/rest/protobody"
	"chorale/services/status"
)

// newNative makes the grpc-gateway's handler over the two services.
func newNative(o *Options) (http.Handler, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &marshaler{runtime.JSONPb{
			MarshalOptions: protojson.MarshalOptions{EmitUnpopulated: true},
		}}),
		runtime.WithErrorHandler(nativeError),
		runtime.WithRoutingErrorHandler(nativeRouting),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.SetQueryParameterParser(&queryParser{}),
	)
	ctx := context.Background()
	if err := choralev1.RegisterInferenceServiceHandlerClient(ctx, mux, o.Inference); err != nil {
		return nil, fmt.Errorf("rest: native inference routes: %w", err)
	}
	if o.Adapters != nil {
		if err := choralev1.RegisterAdapterServiceHandlerClient(ctx, mux, o.Adapters); err != nil {
			return nil, fmt.Errorf("rest: native adapter routes: %w", err)
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = &body{ReadCloser: r.Body}
		mux.ServeHTTP(w, r)
	}), nil
}

// body remembers why it could not be decoded: the gateway's generated code
// keeps an error's text only.
type body struct {
	io.ReadCloser
	err error
}

// marshaler is the gateway's JSON with strict, telling decoding.
type marshaler struct{ runtime.JSONPb }

// NewDecoder decodes one request body.
func (m *marshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		err := decode(r, v)
		if b, ok := r.(*body); ok {
			b.err = err
		}
		return err
	})
}

func decode(r io.Reader, v any) error {
	raw, err := face.ReadBody(&http.Request{Body: io.NopCloser(r)})
	if err != nil {
		return err
	}
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("rest: cannot decode into %T", v)
	}
	return protobody.Unmarshal(raw, m)
}

// nativeError answers with google.rpc.Status.
func nativeError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	if b, ok := r.Body.(*body); ok && b.err != nil {
		err = b.err
	}
	w.Header().Del("Trailer")
	w.Header().Del("Transfer-Encoding")
	var malformed *runtime.HTTPStatusError
	if errors.As(err, &malformed) {
		err = status.Invalid("path", "%v", malformed.Err)
	}
	status.Write(w, status.Native, err)
}

func nativeRouting(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, code int) {
	err := status.ErrRouteNotFound
	if code == http.StatusMethodNotAllowed {
		err = status.ErrMethod
	}
	status.Write(w, status.Native, status.WithText(err, err.Error()+": "+r.Method+" "+r.URL.Path))
}

// queryParser refuses query parameters that are no fields; the gateway's own
// ignores them.
type queryParser struct{ runtime.DefaultQueryParser }

// Parse reads a query into a message.
func (p *queryParser) Parse(m proto.Message, values url.Values, filter *utilities.DoubleArray) error {
	for name := range values {
		md := m.ProtoReflect().Descriptor()
		for part := range strings.SplitSeq(name, ".") {
			part, _, _ = strings.Cut(part, "[")
			if md == nil || protobody.Field(md, part) == nil {
				return status.Invalid(name, "is not a query parameter of this route")
			}
			md = protobody.Field(md, part).Message()
		}
	}
	return p.DefaultQueryParser.Parse(m, values, filter)
}
