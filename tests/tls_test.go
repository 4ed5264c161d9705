package tests

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"chorale/internal/testkit"
)

// TestE2ETLS: roles that know each other by certificate, and clients that come over
// TLS; with new certificates everything goes on.
func TestE2ETLS(t *testing.T) {
	s := newSite(t, true)
	pki := filepath.Join(t.TempDir(), "pki")
	shell(t, nil, testkit.Binary(t), "certs", pki)
	role := func(name string, args ...string) *testkit.Process {
		return testkit.Start(t, testkit.Options{Name: name, Args: slices.Concat([]string{name, "--log-format", "json", "--cluster-tls", filepath.Join(pki, name)}, args)})
	}
	model := []string{"--model-path", testkit.Shallow(t), "--context-length", "512"}
	w := role("worker", slices.Concat(model, workerFlags(&limits{}), []string{"--listen", "127.0.0.1:0"})...)
	worker := w.Message(t, "worker ready", startLimit)["grpc"].(string)
	m := role("adaptermgr", "--data-dir", s.data, "--adapter-root", s.root, "--worker", worker, "--listen", "127.0.0.1:0")
	manager := m.Message(t, "adapter manager ready", startLimit)["grpc"].(string)
	server := filepath.Join(pki, "server")
	s.front = role("router", slices.Concat(model, []string{
		"--served-model-name", served, "--port", "0", "--worker", worker, "--adaptermgr", manager,
		"--ssl-certfile", filepath.Join(server, "tls.crt"), "--ssl-keyfile", filepath.Join(server, "tls.key"),
	})...)
	s.http = s.front.Message(t, "serving", startLimit)["http"].(string)

	ca, err := os.ReadFile(filepath.Join(pki, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true, DisableKeepAlives: true}
	post := func(path string, body object) (code int, out object, serial string) {
		t.Helper()
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{Transport: tr, Timeout: callLimit}).Post(s.http+path, "application/json", bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, out, resp.TLS.PeerCertificates[0].SerialNumber.String()
	}
	s.until("alto can be loaded", callLimit, func() bool {
		code, _, _ := post("/load_lora_adapter", object{"lora_name": "alto", "lora_path": "alto"})
		return code == 200
	})
	_, first, before := post("/generate", greedy(prompt, "alto", 8))

	// Everybody gets new certificates; the connections between roles are then made
	// again, because the manager starts again.
	shell(t, nil, testkit.Binary(t), "certs", pki)
	time.Sleep(1100 * time.Millisecond) // files are looked at once a second
	m.Kill()
	role("adaptermgr", "--data-dir", s.data, "--adapter-root", s.root, "--worker", worker, "--listen", manager).Message(t, "adapter manager ready", startLimit)
	s.until("bass can be loaded", callLimit, func() bool {
		code, _, _ := post("/load_lora_adapter", object{"lora_name": "bass", "lora_path": "bass"})
		return code == 200
	})
	code, again, after := post("/generate", greedy(prompt, "alto", 8))
	if code != 200 || again["text"] != first["text"] || before == after {
		t.Errorf("%d %v, first %v; certificate %s, first %s", code, again, first, after, before)
	}

	// In the clear, and as the wrong role.
	if resp, err := http.Get("http://" + s.http[len("https://"):] + "/health"); err == nil {
		if resp.Body.Close(); resp.StatusCode != 400 {
			t.Errorf("without TLS: %s", resp.Status)
		}
	}
	for folder, ok := range map[string]bool{"": false, "worker": false, "operator": true} {
		args := []string{"worker", "drain", worker, "--timeout", "5s", "--resume"}
		if folder != "" {
			args = append(args, "--cluster-tls", filepath.Join(pki, folder))
		}
		p := testkit.Start(t, testkit.Options{Name: "drain", Args: args})
		if code := p.Wait(t, callLimit); (code == 0) != ok {
			t.Errorf("drain as %q: exit status %d\n%s", folder, code, p.Log())
		}
	}
}
