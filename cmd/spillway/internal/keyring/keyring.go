// Package keyring makes the secrets of an installation and signs its tokens:
// `spillway keys`, and the same for `spillway dev`.
//
//	signing folder   token-key.pem   signs tokens; no service ever sees it
//	service folder   tokens.jwks     verifies tokens; all services
//	                 mac.key         seals control and outcomes records; all services, install, break-glass
//
// Both may be one folder. All files are 0600.
package keyring

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spillway/spillway/pkg/config"
	"github.com/spillway/spillway/pkg/rpc"
)

const (
	macFile = "mac.key"
	// macBytes is the length of the MAC key: that of the hash that it keys.
	macBytes = 32
)

// Ring is an installation's secrets.
type Ring struct {
	Signer *rpc.Signer
	// JWKS is the path that SPILLWAY_TOKEN_KEYS names.
	JWKS string
	// MACFile is the path that SPILLWAY_MAC_KEY_FILE names, MAC what it holds.
	MACFile string
	MAC     []byte
}

// Open reads the secrets in the two folders and makes what is missing; the
// folders are made with mode 0700. A key that is there is never replaced: with
// another MAC key the control log would not verify any more.
func Open(signing, service string) (Ring, error) {
	for _, dir := range []string{signing, service} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return Ring{}, fmt.Errorf("keys: %w", err)
		}
	}
	signer, err := rpc.OpenSigner(signing)
	if err != nil {
		return Ring{}, fmt.Errorf("keys: %w", err)
	}
	r := Ring{Signer: signer, JWKS: filepath.Join(service, rpc.JWKSFile), MACFile: filepath.Join(service, macFile)}
	if filepath.Clean(r.JWKS) != filepath.Clean(signer.JWKS()) {
		public, err := os.ReadFile(signer.JWKS())
		if err == nil {
			err = write(r.JWKS, public)
		}
		if err != nil {
			return Ring{}, fmt.Errorf("JWKS: %w", err)
		}
	}
	r.MAC, err = config.ReadMACKey(r.MACFile)
	if errors.Is(err, fs.ErrNotExist) {
		raw := make([]byte, macBytes)
		rand.Read(raw) // never fails
		r.MAC = []byte(hex.EncodeToString(raw))
		err = write(r.MACFile, r.MAC)
	}
	if err != nil {
		return Ring{}, fmt.Errorf("MAC key: %w", err)
	}
	return r, nil
}

// Token is one that is to be signed.
type Token struct {
	// Subject is who it speaks for: what a source's principals list.
	Subject string
	Roles   []rpc.Role
	// File is where it goes, mode 0600.
	File string
}

// Sign signs t for ttl and writes it to its file in one step, so that a program
// that reads the file meanwhile sees the old or the new one. issuer is the
// cluster's id.
func Sign(signer *rpc.Signer, t Token, issuer string, ttl time.Duration, now time.Time) (string, error) {
	token, err := signer.Sign(rpc.Claims{Issuer: issuer, Subject: t.Subject, Roles: t.Roles, TTL: ttl}, now)
	if err != nil {
		return "", fmt.Errorf("sign token of %s: %w", t.Subject, err)
	}
	if err := write(t.File, []byte(token+"\n")); err != nil {
		return "", fmt.Errorf("token of %s: %w", t.Subject, err)
	}
	return token, nil
}

// write replaces a file in one step, readable only by its owner.
func write(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*") // 0600 by definition
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails, as it should, after the rename
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// roles are those that a token may carry.
var roles = []rpc.Role{rpc.RoleEnqueue, rpc.RoleWorker, rpc.RolePublish, rpc.RoleRead, rpc.RoleOperate, rpc.RoleAdmin}

// known tells whether role is one of the contract's.
func known(role rpc.Role) bool { return slices.Contains(roles, role) }
