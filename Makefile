# Chorale. `make demo` shows it, `make test` proves it; `make help` lists the rest.
SHELL      := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO      ?= go
PYTHON  ?= python3
BIN     := bin/chorale
CACHE   := .cache
MODEL   := $(CACHE)/model/SmolLM2-135M-Instruct.Q4_1.gguf
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
TOOLS   := tools
BUF     := $(GO) tool -modfile=$(TOOLS)/buf/go.mod buf
LINT    := $(GO) tool -modfile=$(TOOLS)/lint/go.mod golangci-lint
FUZZTIME ?= 2m
# NVML's own header marks functions as deprecated that its bindings wrap all the same.
export CGO_CFLAGS ?= -O2 -g -Wno-deprecated-declarations

.PHONY: help
help: ## this list
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: build
build: needs ## build bin/chorale
	$(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o $(BIN) ./cmd/chorale

.PHONY: needs
needs: # says exactly what is missing
	@command -v $(GO) >/dev/null || { echo "make: Go 1.26 or newer is needed (https://go.dev/dl)"; exit 1; }
	@command -v $${CC:-gcc} >/dev/null || { echo "make: a C compiler is needed: apt-get install gcc libc6-dev"; exit 1; }

.PHONY: kernels
kernels: ## build the CUDA library (nvcc is fetched where there is none; KERNEL_ARCH=90a for one chip)
	@$(PYTHON) $(TOOLS)/kernels.py

.PHONY: test-kernels
test-kernels: ## compile the CUDA library and test what of it needs no GPU (needs g++)
	@KERNEL_ARCH=$${KERNEL_ARCH:-90a,80} $(PYTHON) $(TOOLS)/kernels.py --out build/on_cpu/libchorale_kernels.so
	@$(TOOLS)/kernels_on_cpu.sh

.PHONY: test-gpu
GPU_TAGS ?= gpu
test-gpu: needs kernels model ## conformance, parity and faults on the GPU (GPU_TAGS='gpu gpus' where there are two)
	export CHORALE_KERNELS=$(CURDIR)/build/libchorale_kernels.so; \
	$(GO) test -count=1 -tags '$(GPU_TAGS)' -run 'Conformance|GPU' ./worker/tensor/cuda ./worker/model ./worker/engine ./worker/device && \
	$(GO) test -count=1 -tags gpu ./tests/parity && \
	$(GO) test -count=1 -tags gpu -run 'FaultDevice|Soak' ./tests

.PHONY: model
model: $(MODEL) ## fetch and verify the small real model (93 MB)
$(MODEL):
	@$(PYTHON) $(TOOLS)/model.py $(dir $@)

.PHONY: demo
demo: build model ## the same prompt answered by the base and every voice at once
	@$(TOOLS)/demo.sh $(BIN) $(MODEL)

.PHONY: test
test: needs model ## all tests; with -race where goroutines meet
	$(GO) test -timeout 30m ./...
	$(GO) test -race -short $$($(GO) list ./adaptermgr/... ./router/... ./services/... ./worker/engine/... ./worker/lora/... ./worker/collective/... ./internal/hub/... ./bench/...)
	@tests/clients/setup.sh --needs || true

.PHONY: test-clients
test-clients: needs model ## clients of others against the binary: OpenAI's, LiteLLM, LangChain, SGLang's, gRPC in four languages
	@tests/clients/setup.sh
	$(GO) test -count=1 -timeout 20m -tags clients ./tests/clients

.PHONY: check
check: generated lint ## generated code is current, lint, import rules, vet (also without cgo, and for macOS)
	$(GO) vet ./...
	CGO_ENABLED=0 $(GO) vet ./...
	GOOS=darwin CGO_ENABLED=0 $(GO) vet ./...
	$(GO) test -count=1 .

.PHONY: generate
generate: ## renew the code made from proto/
	$(BUF) lint
	$(BUF) generate

.PHONY: generated
generated: # regenerating leaves no diff
	$(BUF) lint
	@rm -rf $(CACHE)/gen && mkdir -p $(CACHE)/gen
	@$(BUF) generate --output $(CACHE)/gen
	@diff -r -x openapi.go $(CACHE)/gen/proto/gen proto/gen || { echo "make: generated code is stale: run make generate"; exit 1; }

.PHONY: lint
lint:
	$(LINT) run ./...

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (2m)
	@$(TOOLS)/fuzz.sh $(FUZZTIME)

.PHONY: goldens
goldens: ## make the goldens anew with PyTorch, transformers and PEFT
	$(TOOLS)/goldens/run.sh

.PHONY: clean
clean: ## remove what was built; fetched models stay
	rm -rf bin build
