package tests

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "chorale/proto/gen/chorale/v1"
)

// TestE2EAdminListen: adapters are administered at an address of their own, by
// who has its key, and answer at the other.
func TestE2EAdminListen(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			l := limits{workers: 1, face: []string{"--admin-listen", "127.0.0.1:0", "--admin-api-key", "boss"}}
			if m.name == "split" {
				l.registry = []string{"--admin-api-key", "boss"}
			}
			s := m.start(t, l)
			ready := s.front.Message(t, "serving", startLimit)
			conn, err := grpc.NewClient(ready["admin_grpc"].(string), grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			boss := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer boss")
			load := func(ctx context.Context, c pb.AdapterServiceClient) error {
				_, err := c.LoadAdapter(ctx, &pb.LoadAdapterRequest{Name: "alto", Source: "alto"})
				return err
			}
			here := pb.NewAdapterServiceClient(conn)
			for _, c := range []struct {
				what string
				err  error
				code codes.Code
				says string
			}{
				{"load at the address of answers", load(boss, s.admin), codes.Unimplemented, "--admin-listen"},
				{"load without a key", load(t.Context(), here), codes.Unauthenticated, "API key"},
				{"load with another key", load(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer user"), here), codes.Unauthenticated, "API key"},
				{"generate at the admin address", generate(boss, conn), codes.Unimplemented, "generated at another"},
				{"load", load(boss, here), codes.OK, ""},
			} {
				if status.Code(c.err) != c.code || c.err != nil && !strings.Contains(c.err.Error(), c.says) {
					t.Errorf("%s: %v, want %v with %q", c.what, c.err, c.code, c.says)
				}
			}
			if code := s.keyed("", "/generate", greedy("x", "alto", 1)); code != 200 {
				t.Errorf("the adapter answers %d", code)
			}
			if code := s.keyed("boss", "/load_lora_adapter", object{"lora_name": "bass", "lora_path": "bass"}); code != 404 {
				t.Errorf("a load over HTTP at the address of answers: %d", code)
			}
			s.http = ready["admin_http"].(string)
			if code := s.keyed("boss", "/load_lora_adapter", object{"lora_name": "bass", "lora_path": "bass"}); code != 200 {
				t.Errorf("a load over HTTP at the admin address: %d", code)
			}
		})
	}
}

func generate(ctx context.Context, conn *grpc.ClientConn) error {
	_, err := pb.NewInferenceServiceClient(conn).Generate(ctx, &pb.GenerateRequest{Prompts: []*pb.Prompt{{Kind: &pb.Prompt_Text{Text: "x"}}}})
	return err
}
