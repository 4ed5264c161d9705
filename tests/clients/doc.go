// Package clients runs clients that no one here wrote against the binary:
// OpenAI's for Python and Node, LiteLLM, LangChain, SGLang's bench_serving,
// grpcurl, ghz, and gRPC clients generated from the proto in Python, Node and
// Java. `make test-clients` installs them below .cache/clients (setup.sh) and
// runs them all at once on one server, with the build tag clients.
//
// Each client is a script that does real work and says "ok NAME" for each
// behaviour it has seen; clients_test.go has the list of all, so that a script
// which ends early does not pass. What the voices must answer is in
// golden.json; what else they say is asked alone before the clients come, so
// that answers given in mixed batches are held against answers given alone.
//
// The parts of the scripts between "doc: NAME" and "doc: end" stand in
// docs/clients.md; docs_test.go holds that they are the same.
package clients
