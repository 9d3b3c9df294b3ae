package dev

import (
	"path/filepath"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/keyring"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	"github.com/spillway/spillway/pkg/rpc"
)

const (
	keysDir = "keys"
	// tokenTTL is how long dev's tokens are good for. They are signed anew at
	// every start, and a dev that runs longer signs again before they expire.
	tokenTTL = 30 * 24 * time.Hour
	// tokenRenewal is when it does.
	tokenRenewal = tokenTTL / 2
)

// keys are a data directory's secrets, made on first use, all 0600.
type keys struct {
	signer  *rpc.Signer
	macPath string
	mac     []byte
}

func openKeys(dataDir string) (keys, error) {
	dir := filepath.Join(dataDir, keysDir)
	r, err := keyring.Open(dir, dir)
	if err != nil {
		return keys{}, err
	}
	return keys{signer: r.Signer, macPath: r.MACFile, mac: r.MAC}, nil
}

// tokens signs what dev hands out and writes each token to <name>.token beside
// the keys, for programs that take a file. issuer is the cluster's id.
func (k keys) tokens(issuer string, now time.Time) (readyfile.Tokens, error) {
	var t readyfile.Tokens
	for _, want := range []struct {
		to      *string
		subject string
		roles   []rpc.Role
	}{
		{&t.Operator, "operator", []rpc.Role{rpc.RoleRead, rpc.RoleOperate, rpc.RoleAdmin}},
		{&t.Worker, "worker", []rpc.Role{rpc.RoleWorker}},
		{&t.Service, "service", []rpc.Role{rpc.RoleEnqueue, rpc.RolePublish}},
	} {
		token, err := keyring.Sign(k.signer, keyring.Token{Subject: want.subject, Roles: want.roles, File: k.tokenFile(want.subject)}, issuer, tokenTTL, now)
		if err != nil {
			return t, err
		}
		*want.to = token
	}
	return t, nil
}

// tokenFile is where a token lies.
func (k keys) tokenFile(subject string) string {
	return filepath.Join(filepath.Dir(k.macPath), subject+".token")
}
