# Every target is one command; `make` lists them.
TOOLS := GOWORK=off go -C tools tool

.PHONY: help build demo test test-kafka kafka race lint laws proto proto-check bench ci clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the binary, in the current folder
	go build -o spillway ./cmd/spillway

demo: ## a flood that harms nobody, in under half a minute
	go run ./cmd/spillway load

test: ## every test
	go test work

test-kafka: ## the tests on Apache Kafka, which need Java and Maven
	SPILLWAY_TEST_KAFKA=apache go test -count=1 -p 1 -run '^TestApache' ./test/...

kafka: ## Apache Kafka in the foreground, for trying things
	go run ./test/apache/kafka

race: ## every test of the product under the race detector, in random order
	go test -race -shuffle=on ./...

lint: ## gofmt, go vet, staticcheck, buf lint
	.ci/lint

laws: ## the rules of the house
	go test ./test/laws

proto: ## generate proto/gen
	tools/protos generate

proto-check: ## is proto/gen what proto/ generates?
	tools/protos diff

bench: ## isolation and throughput of the whole product, about 25 minutes
	go run ./bench isolation
	go run ./bench throughput

ci: ## what decides whether a change lands
	.ci/run

clean: ## remove what make build made
	rm -f spillway
