# One image for everything: the services (spillway serve <service>), spillway install, and the operator's tool.
#
#   docker build --build-arg VERSION="$(git describe --tags --always --dirty)" --tag spillway .
#
# It runs as user 65532, needs no capability and writes only to volumes, so that it works with a read-only root.
# There is no shell in it: health checks are `spillway health`.
FROM golang:1.26-bookworm AS build
WORKDIR /src
# Modules before sources: they change less often.
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG VERSION=devel
# The product's module alone (GOWORK=off), as go.sum has it. Static and without paths: the same sources and VERSION
# make the same binary.
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOWORK=off go build -mod=readonly -trimpath -buildvcs=false \
        -ldflags "-s -w -X main.release=${VERSION}" -o /out/spillway ./cmd/spillway
# Where volumes are mounted: an empty named volume takes its owner and mode from here. Each secret has a folder of its
# own, so that a container can be given one of them.
RUN mkdir -p /out/run/spillway/automation /out/run/spillway/scheduler /out/run/spillway/notifier /out/run/spillway/enqueue \
        /out/var/lib/spillway/signing /out/var/lib/spillway/service \
        /out/var/lib/spillway/tokens/cli /out/var/lib/spillway/tokens/notifier \
        /out/var/lib/spillway/tokens/worker /out/var/lib/spillway/tokens/caller \
    && chmod -R go-rwx /out/var/lib/spillway/signing /out/var/lib/spillway/service /out/var/lib/spillway/tokens

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/spillway /spillway
COPY --from=build --chown=65532:65532 /out/run/spillway /run/spillway
COPY --from=build --chown=65532:65532 /out/var/lib/spillway /var/lib/spillway
USER 65532:65532
ENTRYPOINT ["/spillway"]
