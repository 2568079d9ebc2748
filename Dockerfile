# The image of the lab: edgeproxy and mock-backend, static, and nothing else.
# Where no registry is reachable, "task docker-build" makes the same from
# binaries that were built outside: deploy/prebuilt.Dockerfile.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# Without cgo: static by nature, on the pure-Go SQLite driver.
RUN mkdir /out && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o /out/ ./cmd/edgeproxy ./cmd/mock-backend

FROM scratch
COPY --from=build /out/ /
# Where routing.db is, unless told otherwise; WORKDIR makes it.
WORKDIR /data
ENTRYPOINT ["/edgeproxy"]
