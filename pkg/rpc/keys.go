package rpc

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// maxKeyFile bounds a key file: a JWKS of Ed25519 keys is under 200 bytes a
// key, so this holds hundreds.
const maxKeyFile = 64 << 10

// jwk is the one kind of key that is accepted: RFC 8037's OKP with Ed25519.
type jwk struct {
	Type  string `json:"kty"`
	Curve string `json:"crv"`
	X     string `json:"x"`
	ID    string `json:"kid"`
	Use   string `json:"use,omitempty"`
	Alg   string `json:"alg,omitempty"`
}

type jwks struct {
	Keys []jwk `json:"keys"`
}

// parseJWKS reads the keys of a JWKS by their kid. Keys of other kinds are
// left out, as RFC 7517 asks; a set without one usable key is an error, and so
// is a kid that names two.
func parseJWKS(data []byte) (map[string]ed25519.PublicKey, error) {
	var set jwks
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("not a JWKS: %w", err)
	}
	keys := make(map[string]ed25519.PublicKey, len(set.Keys))
	for _, k := range set.Keys {
		if k.Type != "OKP" || k.Curve != "Ed25519" || (k.Alg != "" && k.Alg != "EdDSA" && k.Alg != "Ed25519") ||
			(k.Use != "" && k.Use != "sig") || k.ID == "" {
			continue
		}
		x, err := base64.RawURLEncoding.DecodeString(k.X)
		if err != nil || len(x) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("JWKS key %.64q is no Ed25519 key", k.ID)
		}
		if _, twice := keys[k.ID]; twice {
			return nil, fmt.Errorf("JWKS names key %.64q twice", k.ID)
		}
		keys[k.ID] = x
	}
	if len(keys) == 0 {
		return nil, errors.New("JWKS has no Ed25519 signing key")
	}
	return keys, nil
}

// keyID is the RFC 7638 thumbprint of an Ed25519 key: a kid that two
// installations cannot share by accident.
func keyID(public ed25519.PublicKey) string {
	x := base64.RawURLEncoding.EncodeToString(public)
	sum := sha256.Sum256([]byte(`{"crv":"Ed25519","kty":"OKP","x":"` + x + `"}`))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func encodeJWKS(public ed25519.PublicKey) ([]byte, error) {
	return json.MarshalIndent(jwks{Keys: []jwk{{
		Type: "OKP", Curve: "Ed25519", Use: "sig", Alg: "EdDSA", ID: keyID(public),
		X: base64.RawURLEncoding.EncodeToString(public),
	}}}, "", "  ")
}

func newKey() (ed25519.PrivateKey, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	return private, err
}

func encodePrivate(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func parsePrivate(data []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("no PEM block PRIVATE KEY")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("a %T, not an Ed25519 key", parsed)
	}
	return key, nil
}

// readJWKS reads a file of public keys, bounded.
func readJWKS(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(data) > maxKeyFile {
		err = fmt.Errorf("%s: larger than %d bytes", name, maxKeyFile)
	}
	return data, err
}

// writeWhole replaces a file atomically, readable by its owner only.
func writeWhole(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*") // 0600 by definition
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails, as it should, after the rename
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
