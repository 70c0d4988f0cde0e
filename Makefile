# `make` lists what can be made. Each target is one line that you could type.
SHELL    := bash
KILLS    ?= 1000
FUZZTIME ?= 30s
SIM_FOR  ?= 10m
# Starts the real services, runs what follows with their addresses, stops them.
SERVICES := go run ./test/services run --
LINT     := go tool -modfile=tools/go.mod golangci-lint

.PHONY: help test test-fast services crash sim fuzz lint fmt bench demo docs build

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

# test/rebalance measures gaps of milliseconds: nothing else runs beside it.
test: ## all tests on real services, every benchmark once, a minute of simulation; installs what is missing
	$(SERVICES) sh -c 'go test -race -shuffle=on -bench=. -benchtime=1x -timeout=20m $$(go list ./... | grep -v /test/rebalance) && \
		go test -race -shuffle=on ./test/rebalance && PENSTOCK_SIM_FOR=60s go test -count=1 -run=Schedules ./test/sim && (cd deploy/check && go test ./...) && cd bench && go test -bench=. -benchtime=1x ./... && go run . -quick'

test-fast: ## the tests of the packages that need no service
	go test -race -shuffle=on $$(go list -f '{{.ImportPath}} {{.TestImports}} {{.XTestImports}}' ./... | grep -v testservice | cut -d' ' -f1)

services: ## start the services and keep them until Ctrl-C; prints how to use them
	go run ./test/services up

crash: ## kill and verify KILLS times (default 1000)
	$(SERVICES) go test ./test/crash -count=1 -v -timeout=0 -args -kills=$(KILLS)

sim: ## random schedules of the engine for SIM_FOR (default 10m), each replayable from its seed
	PENSTOCK_SIM_FOR=$(SIM_FOR) go test -count=1 -timeout=0 -run=Schedules -v ./test/sim

fuzz: ## every fuzz target for FUZZTIME (default 30s)
	set -e; grep -rHo --include=*_test.go '^func Fuzz[A-Za-z0-9_]*' . | sed 's/:func / /' | while read -r file name; do \
		echo "$$name in $$(dirname $$file)"; go test -run='^$$' -fuzz="^$$name$$" -fuzztime=$(FUZZTIME) $$(dirname $$file); done

lint: ## linters, vet of the build with failpoints, tidy modules
	$(LINT) run ./...
	go vet -tags failpoint ./...
	go mod tidy -diff
	cd bench && go tool -modfile=../tools/go.mod golangci-lint run ./... && go mod tidy -diff
	cd deploy/check && go tool -modfile=../../tools/go.mod golangci-lint run ./... && go mod tidy -diff

fmt: ## format all code
	$(LINT) fmt

bench: ## Penstock beside the limit and its peers
	cd bench && go run .

demo: ## Kafka into a database, killed in the middle, verified
	go run ./cmd/penstock demo

docs: ## the reference of flow files, from the connectors' Specs
	go generate ./cmd/penstock

build: ## the binary, in bin/
	CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o bin/penstock ./cmd/penstock
