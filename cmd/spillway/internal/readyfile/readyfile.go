// Package readyfile is the file in which a running `spillway dev` says where
// everything is: <data-dir>/dev.json, and the same under --ready-file. Its form
// is part of the product's contract. It holds tokens, so it is readable only by
// its owner.
package readyfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Name is the file's name in the data directory.
const Name = "dev.json"

// Version is the version of the form.
const Version = 1

// maxBytes bounds what is read: a hundred replicas take some 30 KiB.
const maxBytes = 1 << 20

// File is what is in it. A part that does not run is absent.
type File struct {
	Version   int       `json:"version"`
	DataDir   string    `json:"data_dir"`
	Broker    Broker    `json:"broker"`
	Endpoints Endpoints `json:"endpoints"`
	Admin     Admin     `json:"admin"`
	Replicas  []Replica `json:"replicas,omitempty"`
	Processes []Process `json:"processes"`
	Tokens    Tokens    `json:"tokens"`
	// Parent is the pid of `spillway dev` itself.
	Parent int `json:"pid"`
	// MACKeyFile is where the key is that seals control and outcomes records.
	MACKeyFile string `json:"mac_key_file,omitempty"`
	// TokenKeys is the JWKS file that tokens are verified with.
	TokenKeys string `json:"token_keys,omitempty"`
	// Prefix stands before the names of all topics.
	Prefix string `json:"prefix"`
}

// Kinds of brokers.
const (
	Embedded = "embedded"
	Kafka    = "kafka"
)

// Broker says what keeps the logs and how to get in.
type Broker struct {
	// Kind is Embedded or Kafka.
	Kind string `json:"kind"`
	// Address is "unix:PATH", or host:port, several separated by commas.
	Address string `json:"address"`
	// TLS says that connections use it; the files are PEM.
	TLS      bool   `json:"tls,omitempty"`
	CAFile   string `json:"ca_file,omitempty"`
	CertFile string `json:"cert_file,omitempty"`
	KeyFile  string `json:"key_file,omitempty"`
	// SASL is the mechanism to log in with, User who does, and PasswordFile
	// where the password is.
	SASL         string `json:"sasl,omitempty"`
	User         string `json:"user,omitempty"`
	PasswordFile string `json:"password_file,omitempty"`
}

// Endpoints are gRPC addresses, host:port. Enqueue, Notifier and Websocket name
// the first of several; all are in File.Replicas.
type Endpoints struct {
	Enqueue   string   `json:"enqueue,omitempty"`
	Scheduler []string `json:"scheduler,omitempty"`
	Notifier  string   `json:"notifier,omitempty"`
	// Websocket is where subscribers connect, ws://host:port/v1/ws.
	Websocket  string `json:"websocket,omitempty"`
	Automation string `json:"automation,omitempty"`
	// Pages is the base URL of the pages for people.
	Pages string `json:"pages,omitempty"`
}

// Admin are the base URLs of the admin listeners.
type Admin struct {
	Enqueue    string   `json:"enqueue,omitempty"`
	Scheduler  []string `json:"scheduler,omitempty"`
	Notifier   string   `json:"notifier,omitempty"`
	Automation string   `json:"automation,omitempty"`
}

// Replica is one service process.
type Replica struct {
	Name  string `json:"name"`
	GRPC  string `json:"grpc"`
	Admin string `json:"admin"`
	// Websocket is where a notifier's subscribers connect; "" for other services.
	Websocket string `json:"websocket,omitempty"`
}

// Process is one child. It is rewritten when the child was started again.
type Process struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
	// Restarts is how often the child was started again.
	Restarts int `json:"restarts,omitempty"`
}

// Tokens are bearer tokens, by the roles they carry.
type Tokens struct {
	// Operator may read, operate and administer.
	Operator string `json:"operator,omitempty"`
	// Worker may take jobs.
	Worker string `json:"worker,omitempty"`
	// Service may enqueue and publish.
	Service string `json:"service,omitempty"`
	// Subscriber may listen to notifications. It is good for minutes and signed
	// again before it ends, so read it anew for each connection.
	Subscriber string `json:"subscriber,omitempty"`
}

// Websocket is the URL at which a notifier whose web listener has this address,
// host:port, takes subscribers.
func Websocket(address string) string { return "ws://" + address + "/v1/ws" }

// ErrAbsent is returned where there is no file: no dev runs there.
var ErrAbsent = errors.New("no spillway dev is running there; start one with: spillway dev")

// Read reads a ready file. The path may name the data directory.
func Read(path string) (File, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, Name)
	}
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return File{}, fmt.Errorf("%s: %w", path, ErrAbsent)
	case err != nil:
		return File{}, fmt.Errorf("read ready file: %w", err)
	case len(b) > maxBytes:
		return File{}, fmt.Errorf("ready file %s has %d bytes, at most %d", path, len(b), maxBytes)
	}
	var f File
	if err := json.Unmarshal(b, &f); err != nil {
		return File{}, fmt.Errorf("ready file %s: %w", path, err)
	}
	if f.Version != Version {
		return File{}, fmt.Errorf("ready file %s has version %d, this program reads %d", path, f.Version, Version)
	}
	return f, nil
}

// Write replaces the file in one step, readable only by its owner, so that a
// reader sees either the old or the new one.
func Write(path string, f File) error {
	f.Version = Version
	b, err := json.MarshalIndent(f, "", " ")
	if err != nil {
		return fmt.Errorf("encode ready file: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write ready file: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(b, '\n'))
	if err = errors.Join(err, tmp.Close()); err != nil {
		return fmt.Errorf("write ready file: %w", err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return fmt.Errorf("write ready file: %w", err)
	}
	return nil
}

// DefaultDir is the data directory of a dev that was told none.
func DefaultDir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("default data directory: %w; name one with --data-dir", err)
	}
	return filepath.Join(cache, "spillway", "dev"), nil
}
