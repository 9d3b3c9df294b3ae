// Package stack holds what compose.yaml and the Dockerfile promise: limits,
// health checks, read-only roots, no capabilities, pinned images, the broker's
// settings, settings that the services know. It is a module of its own because
// only it needs the compose library. It starts no container: what compose.yaml
// runs is run as processes, down to the first job.
package stack
